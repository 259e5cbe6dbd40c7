"""Calls the vault by the URL that byrnie gave, and writes down the status of each answer."""

import http.server
import os
import sys
import threading
import time
import urllib.error
import urllib.request


def call() -> str:
    try:
        with urllib.request.urlopen(os.environ["BYRNIE_VAULT_URL"] + "/", timeout=5) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except OSError as error:
        return str(error)


def keep_calling(path: str) -> None:
    while True:
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(call())
        os.replace(path + ".new", path)
        time.sleep(0.1)


threading.Thread(target=keep_calling, args=(sys.argv[2],), daemon=True).start()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
