"""A judge on this machine: a server that answers well, badly, late or not at all, and remembers what it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vdd.judge import Judge, Outcome, review
from vdd.reviews import Task, read_reviews

GOOD = "8 7\nBoth answers …"


class Server(ThreadingHTTPServer):
    """Answers each question by its plan, one step a request, the last step for good; remembers all that it was sent."""

    daemon_threads = True

    def __init__(self, plans):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plans = plans
        self.got = []
        self.times = []
        self.release = threading.Event()
        self.on_request = lambda: None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def asked(self):
        """Question → how often."""
        return Counter(body["messages"][1]["content"] for _, _, body in self.got)

    def handle_error(self, *_):
        """A client that went away is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        server.times.append(time.monotonic())
        server.on_request()
        key = next((key for key in server.plans if key in body["messages"][1]["content"]), None)
        plan = server.plans.get(key, ["good"])
        STEPS[plan.pop(0) if len(plan) > 1 else plan[0]](self)

    def say(self, status, content, *, kind="application/json", **headers):
        data = content.encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def choose(self, words, **more):
        message = {"role": "assistant", "content": words}
        choices = [{"index": 0, "message": message, "finish_reason": "stop", **more}]
        self.say(
            200, json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices})
        )

    def hang(self):
        self.server.release.wait(20)
        self.choose(GOOD)

    def close(self):
        self.close_connection = True
        self.connection.shutdown(2)


STEPS = {
    "good": lambda handler: handler.choose(GOOD),
    "unreadable": lambda handler: handler.choose("I cannot say. \ud83d"),
    "hang": Handler.hang,
    "close": Handler.close,
    "429": lambda handler: handler.say(429, '{"error": {"message": "slow down"}}', Retry_After="0.05"),
    "500": lambda handler: handler.say(500, '{"error": {"message": "oh dear"}}', Retry_After="0.05"),
    "400": lambda handler: handler.say(400, '{"error": {"message": "too long"}}'),
    "401": lambda handler: handler.say(401, '{"error": {"message": "bad key"}}'),
    "404": lambda handler: handler.say(404, '{"error": {"message": "no such model"}}'),
    "nonsense": lambda handler: handler.say(200, '{"choices": [{"mess'),
    "page": lambda handler: handler.say(200, "<html>Welcome</html>", kind="text/html"),
    "list": lambda handler: handler.say(200, "[1, 2]"),
    "other": lambda handler: handler.say(200, '{"choices": 5}'),
    "no choice": lambda handler: handler.say(200, '{"id": "1", "choices": []}'),
    "odd choice": lambda handler: handler.say(200, '{"id": "1", "choices": ["8 7"]}'),
    "empty": lambda handler: handler.choose("  \n"),
    "null": lambda handler: handler.choose(None, finish_reason="content_filter"),
}


@contextmanager
def serving(plans=None, **numbered):
    """A server with plans by a piece of the prompt, or by the number of a task: `q3`."""
    server = Server({**(plans or {}), **{f"({key[1:]})": steps for key, steps in numbered.items()}})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def tasks(count, word="answer"):
    return [Task(n, {"category": "conv"}, "Be fair.", f"Rate {word} ({n}).") for n in range(count)]


def judge_at(server, **changes):
    return Judge(
        **{
            "url": server.url,
            "model": "m",
            "temperature": 0.2,
            "max_tokens": 1024,
            "retries": 0,
            "timeout": 5.0,
            **changes,
        }
    )


def run(server, path, count=3, **changes) -> Outcome:
    return review(judge_at(server, **changes), tasks(count), path, read=lambda words: {"length": len(words)})


def rows_of(path):
    return [row for _, row in read_reviews(path).rows]


def ids_of(path):
    return [row["question_id"] for row in rows_of(path)]
