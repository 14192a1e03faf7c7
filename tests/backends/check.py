"""Makes all calls of examples/python and prints the results as JSON: check.py USER."""
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples/python"))
sys.dont_write_bytecode = True
import uproar

body, signature = os.environ["WEBHOOK_BODY"].encode(), os.environ["WEBHOOK_SIGNATURE"]
try:
    uproar.publish("", "no room")
    error = "no error"
except RuntimeError as problem:
    error = str(problem)
result = {
    "published": uproar.publish("garden", "from python & co"),
    "sent": uproar.send_to_user(sys.argv[1], "only for you from python")["count"],
    "nobody": uproar.send_to_user("no body", "hello")["count"],
    "members": [member["name"] for member in uproar.members("garden")["members"]],
    "token": uproar.token("python user"),
    "error": error,
    "genuine": uproar.is_genuine(body, signature),
    "forged": uproar.is_genuine(body + b" ", signature) or uproar.is_genuine(body, ""),
}
print(json.dumps({"python": result}))
