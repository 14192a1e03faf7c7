<?php

declare(strict_types=1);

const ROOM = 'garden';
$uproar = require __DIR__ . '/config.php';

// In your application the user is the one who has logged in.
session_start(['cookie_samesite' => 'Strict', 'cookie_httponly' => true]);
$user = $_SESSION['user'] ??= 'guest-' . bin2hex(random_bytes(4));
session_write_close();

if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $text = trim((string) ($_POST['text'] ?? ''));
    // Your application would check and store the message here.
    if ($text !== '') {
        $uproar->publish(ROOM, $text, $user);
    }
    header('Location: /', true, 303);
    exit;
}

// The browser may use another address of the server than PHP.
$url = getenv('CHAT_PUBLIC_URL') ?: (getenv('CHAT_URL') ?: 'http://127.0.0.1:8000');
$socket = preg_replace('/^http/', 'ws', $url) . '/room/' . ROOM . '?token=' . $uproar->token($user);
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<title>A form, PHP and uproar</title>
<h1>Hello <?= htmlspecialchars($user) ?></h1>
<form method="post">
  <label>Message <input name="text" required maxlength="1000" autocomplete="off"></label>
  <button>Send</button>
</form>
<ul id="lines" data-socket="<?= htmlspecialchars($socket) ?>"></ul>
<script>
const lines = document.getElementById('lines'), form = document.forms[0];
const socket = new WebSocket(lines.dataset.socket);
socket.onmessage = event => {
  const line = document.createElement('li');
  line.textContent = event.data;
  lines.append(line);
};
// A fresh page has a fresh token and the room's last 50 lines.
socket.onclose = () => setTimeout(() => location.reload(), 1000 + Math.random() * 4000);
// Without this script the form works, too: PHP publishes and sends the page again.
form.onsubmit = event => {
  event.preventDefault();
  fetch('/', { method: 'POST', body: new FormData(form) });
  form.reset();
};
</script>
