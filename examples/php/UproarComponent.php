<?php

declare(strict_types=1);

namespace app\components;

require_once __DIR__ . '/uproar.php';

/** A component of Yii 2 that publishes with uproar: `Yii::$app->uproar->publish('garden', 'The shop opens at 9')`. */
class UproarComponent extends \yii\base\Component
{
    /** Base URL of the server. */
    public string $url = 'http://127.0.0.1:8000';
    /** Key of the HTTP API, with the scopes publish and read. */
    public string $key = '';
    /** Secret of --auth-hmac-secret-file, for tokens. */
    public string $secret = '';
    /** Secret of --webhook-secret-file. */
    public string $webhookSecret = '';

    private \Uproar $uproar;

    public function init(): void
    {
        parent::init();
        if ($this->key === '') {
            throw new \InvalidArgumentException('The component uproar has no key; set "key" in the configuration.');
        }
        $this->uproar = new \Uproar($this->url, $this->key, $this->secret, $this->webhookSecret);
    }

    /** Returns a token for a user, for example for `Yii::$app->user->id`. */
    public function token(int|string $user, int $seconds = 3600, array $claims = []): string
    {
        return $this->uproar->token((string) $user, $seconds, $claims);
    }

    public function publish(string $room, string $text, ?string $as = null): array
    {
        return $this->uproar->publish($room, $text, $as);
    }

    public function sendToUser(int|string $user, string $text): int
    {
        return $this->uproar->sendToUser((string) $user, $text);
    }

    public function members(string $room): array
    {
        return $this->uproar->members($room);
    }

    /** Returns whether a webhook comes from the server. `$request` is `Yii::$app->request`. */
    public function isGenuine(object $request): bool
    {
        return $this->uproar->isGenuine($request->getRawBody(), $request->getHeaders()->get('Uproar-Signature', ''));
    }
}
