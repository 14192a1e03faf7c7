<?php

declare(strict_types=1);

/**
 * Calls of uproar from PHP 8.1 or later, without a library. docs/api.md describes the HTTP API.
 *
 * A call that fails throws a RuntimeException with the server's sentence about the error.
 */
final class Uproar
{
    public function __construct(
        /** Base URL of the server, for example http://127.0.0.1:8000 */
        private string $url,
        /** Key of the HTTP API, with the scopes publish and read */
        private string $key,
        /** Secret of --auth-hmac-secret-file, for tokens */
        private string $secret = '',
        /** Secret of --webhook-secret-file */
        private string $webhookSecret = '',
    ) {
    }

    /** Returns a token with which a visitor opens a WebSocket. More claims: name, rooms, publish. */
    public function token(string $user, int $seconds = 3600, array $claims = []): string
    {
        $claims = ['sub' => $user, 'exp' => time() + $seconds] + $claims;
        $text = self::encode(['alg' => 'HS256', 'typ' => 'JWT']) . '.' . self::encode($claims);
        return $text . '.' . self::base64url(hash_hmac('sha256', $text, $this->secret, true));
    }

    /** Publishes a line to a room: a notice, or in the chat a line of the user $as. */
    public function publish(string $room, string $text, ?string $as = null): array
    {
        $query = $as === null ? '' : '?as=' . rawurlencode($as);
        return $this->call('POST', 'rooms/' . rawurlencode($room) . '/messages' . $query, $text);
    }

    /** Sends a message to all connections of a user. Returns their number: 0 if the user is not connected. */
    public function sendToUser(string $user, string $text): int
    {
        return $this->call('POST', 'users/' . rawurlencode($user) . '/messages', $text)['count'];
    }

    /** Returns the members of a room, at most 1,000: arrays with an id and a name. */
    public function members(string $room): array
    {
        return $this->call('GET', 'rooms/' . rawurlencode($room) . '/members?limit=1000')['members'];
    }

    /** Returns whether a webhook comes from the server: $signature is the header Uproar-Signature. */
    public function isGenuine(string $body, string $signature): bool
    {
        $expected = 'sha256=' . hash_hmac('sha256', $body, $this->webhookSecret);
        return $this->webhookSecret !== '' && hash_equals($expected, $signature);
    }

    private function call(string $method, string $path, string $text = ''): array
    {
        $headers = ["Authorization: Bearer $this->key", 'Content-Type: text/plain; charset=utf-8'];
        $http = ['method' => $method, 'header' => $headers, 'content' => $text, 'ignore_errors' => true, 'timeout' => 5];
        $answer = @file_get_contents("$this->url/api/$path", false, stream_context_create(['http' => $http]));
        $answer = json_decode((string) $answer, true);
        if (!is_array($answer) || isset($answer['error'])) {
            $error = $answer['error'] ?? ['message' => "No answer from $this->url.", 'remedy' => 'Is uproar running?'];
            throw new RuntimeException("$error[message] $error[remedy]");
        }
        return $answer;
    }

    private static function encode(array $part): string
    {
        return self::base64url(json_encode($part, JSON_THROW_ON_ERROR));
    }

    private static function base64url(string $bytes): string
    {
        return rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
    }
}
