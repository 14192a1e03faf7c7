<?php

// Makes all calls of examples/php and prints the results as JSON: check.php USER. The same as check.mjs and check.py.

namespace yii\base {
    class Component {
        public function __construct(array $values = []) { foreach ($values as $name => $value) { $this->$name = $value; } $this->init(); }
        public function init(): void {}
    }
}

namespace {
    $examples = __DIR__ . '/../../examples/php';
    require "$examples/UproarComponent.php";
    $direct = require "$examples/config.php";
    $settings = ['key' => getenv('CHAT_KEY'), 'secret' => getenv('CHAT_SECRET'), 'url' => getenv('CHAT_URL')];
    $component = new \app\components\UproarComponent($settings + ['webhookSecret' => getenv('CHAT_WEBHOOK_SECRET')]);
    $request = new class () {
        public function getRawBody(): string { return getenv('WEBHOOK_BODY'); }
        public function getHeaders(): self { return $this; }
        public function get(string $name, string $default): string {
            return $name === 'Uproar-Signature' ? getenv('WEBHOOK_SIGNATURE') : $default;
        }
    };
    $message = function (callable $call): string {
        try {
            $call();
        } catch (\Exception $error) {
            return $error->getMessage();
        }
        return 'no error';
    };
    $results = [];
    foreach (['php' => $direct, 'yii' => $component] as $name => $uproar) {
        $results[$name] = [
            'published' => $uproar->publish('garden', "from $name & co"),
            'as' => $uproar->publish('garden', "as somebody from $name", 'somebody'),
            'sent' => $uproar->sendToUser($argv[1], "only for you from $name"),
            'nobody' => $uproar->sendToUser('no body', 'hello'),
            'members' => array_column($uproar->members('garden'), 'name'),
            'token' => $uproar->token("$name user"),
            'error' => $message(fn () => $uproar->publish('', 'no room')),
        ];
    }
    $body = getenv('WEBHOOK_BODY');
    $results['php']['genuine'] = $direct->isGenuine($body, getenv('WEBHOOK_SIGNATURE'));
    $results['yii']['genuine'] = $component->isGenuine($request);
    $results['php']['forged'] = $results['yii']['forged'] = $direct->isGenuine("$body ", getenv('WEBHOOK_SIGNATURE'))
        || $direct->isGenuine($body, '') || (new Uproar('', ''))->isGenuine($body, 'sha256=' . hash_hmac('sha256', $body, ''));
    $results['without a key'] = $message(fn () => new \app\components\UproarComponent());
    $results['without a server'] = $message(fn () => (new Uproar('http://127.0.0.1:1', 'key'))->members('garden'));
    echo json_encode($results, JSON_THROW_ON_ERROR);
}
