<?php

declare(strict_types=1);

$uproar = require __DIR__ . '/config.php';
$body = (string) file_get_contents('php://input');
if (!$uproar->isGenuine($body, $_SERVER['HTTP_UPROAR_SIGNATURE'] ?? '')) {
    http_response_code(403);
    exit("The header Uproar-Signature does not fit the body and the secret in CHAT_WEBHOOK_SECRET.\n");
}
// Your application would handle the events here.
error_log("webhook: $body");
http_response_code(204);
