"""Calls of uproar from Python 3.9 or later, without a package. docs/api.md describes the HTTP API."""
import base64, hmac, json, os, time, urllib.error, urllib.request
from urllib.parse import quote

def _call(method, path, text=None):
    headers = {"Authorization": "Bearer " + os.environ["CHAT_KEY"], "Content-Type": "text/plain"}
    url, body = f"{os.environ['CHAT_URL']}/api/{path}", text and text.encode()
    try:
        return json.load(urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=5))
    except urllib.error.HTTPError as error:
        raise RuntimeError("{message} {remedy}".format(**json.load(error)["error"])) from None

def publish(room, text): return _call("POST", f"rooms/{quote(room, safe='')}/messages", text)
def send_to_user(user, text): return _call("POST", f"users/{quote(user, safe='')}/messages", text)
def members(room): return _call("GET", f"rooms/{quote(room, safe='')}/members?limit=1000")

def token(user, seconds=3600, **claims):
    parts = {"alg": "HS256"}, {**claims, "sub": user, "exp": int(time.time()) + seconds}
    text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = hmac.digest(os.environ["CHAT_SECRET"].encode(), text, "sha256")
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()

# Returns whether a webhook comes from the server. `body` is bytes, `signature` the header Uproar-Signature.
def is_genuine(body, signature):
    expected = "sha256=" + hmac.new(os.environ["CHAT_WEBHOOK_SECRET"].encode(), body, "sha256").hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode())
