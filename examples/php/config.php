<?php

require_once __DIR__ . '/uproar.php';

/** Returns the client of the server that the environment describes. */
return new Uproar(
    getenv('CHAT_URL') ?: 'http://127.0.0.1:8000',
    (string) getenv('CHAT_KEY'),
    (string) getenv('CHAT_SECRET'),
    (string) getenv('CHAT_WEBHOOK_SECRET'),
);
