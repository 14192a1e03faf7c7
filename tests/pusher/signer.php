<?php
// Signs the requests of Pusher's HTTP API without a library.
// Usage: php signer.php URL APP_ID KEY SECRET trigger CHANNEL EVENT JSON | get PATH [NAME=VALUE…] | auth SOCKET_ID CHANNEL [JSON]

final class Signer
{
    public function __construct(private string $url, private string $id, private string $key, private string $secret) {}

    /** Sends an event to channels, except to the client with this socket identifier. */
    public function trigger(array $channels, string $event, mixed $data, ?string $except = null): array
    {
        $body = ['name' => $event, 'channels' => $channels, 'data' => json_encode($data, JSON_THROW_ON_ERROR)];
        return $this->request('POST', '/events', [], json_encode($body + ($except ? ['socket_id' => $except] : [])));
    }

    public function get(string $path, array $query = []): array
    {
        return $this->request('GET', $path, $query);
    }

    /** Returns what the endpoint for channel authorization answers. Presence channels need the user as `$user`. */
    public function auth(string $socketId, string $channel, ?array $user = null): array
    {
        $data = $user === null ? [] : ['channel_data' => json_encode($user, JSON_THROW_ON_ERROR)];
        $text = implode(':', [$socketId, $channel, ...array_values($data)]);
        return ['auth' => $this->key . ':' . hash_hmac('sha256', $text, $this->secret)] + $data;
    }

    private function request(string $method, string $path, array $query, string $body = ''): array
    {
        $path = "/apps/$this->id$path";
        $query += ['auth_key' => $this->key, 'auth_timestamp' => time(), 'auth_version' => '1.0'];
        $query += $body === '' ? [] : ['body_md5' => md5($body)];
        ksort($query);
        // The signature covers the values as they are, without percent-encoding.
        $signed = implode('&', array_map(fn ($name) => "$name=$query[$name]", array_keys($query)));
        $query['auth_signature'] = hash_hmac('sha256', "$method\n$path\n$signed", $this->secret);
        $http = ['method' => $method, 'content' => $body, 'header' => 'Content-Type: application/json', 'ignore_errors' => true];
        $answer = file_get_contents("$this->url$path?" . http_build_query($query), false, stream_context_create(['http' => $http]));
        if ($answer === false || !str_contains($http_response_header[0], ' 200 ')) {
            throw new RuntimeException(($http_response_header[0] ?? "$this->url does not answer") . ": $answer");
        }
        return json_decode($answer, true, flags: JSON_THROW_ON_ERROR);
    }
}

if (PHP_SAPI === 'cli' && realpath($argv[0]) === __FILE__) {
    [, $url, $id, $key, $secret, $command] = $argv;
    $signer = new Signer($url, $id, $key, $secret);
    $rest = array_slice($argv, 6);
    echo json_encode(match ($command) {
        'trigger' => $signer->trigger(explode(' ', $rest[0]), $rest[1], json_decode($rest[2], true), $rest[3] ?? null),
        'get' => $signer->get($rest[0], array_column(array_map(fn ($pair) => explode('=', $pair, 2), array_slice($rest, 1)), 1, 0)),
        'auth' => $signer->auth($rest[0], $rest[1], isset($rest[2]) ? json_decode($rest[2], true) : null),
    }), "\n";
}
