"""A peer on a loopback port, in its own threads: it has the blocks of a warm store, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from typing_extensions import Self

from semanticd.adapters.http.operations.blocks import BlockLookup, read_token_ids
from semanticd.application.services.shared_blocks import SharedBlocks
from semanticd.domain.block_tree import NamedTree
from semanticd.domain.ids import BlockHash, ModelFingerprint
from tests.fakes.warm_store import MemoryWarmStore

Vice = Literal[
    "hangs",
    "dies",
    "drips",
    "lies",
    "sends another block",
    "answers 500",
    "answers 401",
    "answers HTML",
    "is huge",
]
"""What it does instead of bringing a block."""


class PeerServer:
    """`with PeerServer(store) as peer: … peer.url`."""

    def __init__(self, store: MemoryWarmStore, *, key: str | None = None) -> None:
        """Show this store's blocks to those that send the key."""
        self.store = store
        self.key = key
        self.vice: Vice | None = None
        self.vice_of: Callable[[int], bool] = lambda number: True
        """Whether the vice befalls the block that is asked for as this one, from 0."""
        self.look_up_answer: Callable[[], tuple[int, bytes]] | None = None
        """What it says instead of which blocks it has."""
        self.look_up_hangs = False
        self.num_look_ups = 0
        self.num_reads = 0
        self._over = threading.Event()
        self._shared = SharedBlocks(store)

    def read_file(self, block_hash: BlockHash) -> bytes | None:
        """Return a block file."""
        return self.store.read_file(block_hash)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        """Listen."""
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Answer a look-up."""
                peer._look_up(self)

            def do_GET(self) -> None:
                """Answer with a block, or not."""
                peer._block(self)

            def log_message(self, *args: Any) -> None:
                """Keep still."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: Any) -> None:
                """Keep still: clients hang up on it."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop, and let those that hang go."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _look_up(self, asked: BaseHTTPRequestHandler) -> None:
        self.num_look_ups += 1
        body = asked.rfile.read(int(asked.headers["Content-Length"]))
        if self.key is not None and asked.headers["Authorization"] != f"Bearer {self.key}":
            _answer(asked, 401, b'{"error": {}}')
        elif self.look_up_hangs:
            self._over.wait(60)
        elif self.look_up_answer is not None:
            _answer(asked, *self.look_up_answer())
        else:
            question = BlockLookup(**json.loads(body))
            tree = NamedTree(
                ModelFingerprint(question.fingerprint),
                question.layout,
                question.block_tokens,
                question.cuts_anywhere,
            )
            found = asyncio.run(self._shared.look_up(tree, read_token_ids(question.tokens)))  # noqa: TID251
            blocks = [
                {"name": b.name.hex(), "parent": b.parent.hex(), "tokens": b.num_tokens, "kind": b.kind}
                for b in found
            ]
            _answer(asked, 200, json.dumps({"blocks": blocks}).encode())

    def _block(self, asked: BaseHTTPRequestHandler) -> None:
        number, self.num_reads = self.num_reads, self.num_reads + 1
        data = self.read_file(BlockHash(bytes.fromhex(asked.path.rpartition("/")[2])))
        assert data is not None
        if self.vice is None or not self.vice_of(number):
            _answer(asked, 200, data)
        elif self.vice == "hangs":
            self._over.wait(60)
        elif self.vice == "dies":
            _answer(asked, 200, data[: len(data) // 2], says=len(data))
            asked.close_connection = True
        elif self.vice == "drips":
            _answer(asked, 200, b"", says=len(data))
            for byte in data:
                if self._over.wait(0.05):
                    return
                asked.wfile.write(bytes([byte]))
        elif self.vice == "lies":
            _answer(asked, 200, data[:-1] + bytes([data[-1] ^ 1]))
        elif self.vice == "sends another block":
            name = bytes.fromhex(asked.path.rpartition("/")[2])
            block = self.store.get(BlockHash(name))
            assert block is not None
            others = self.store.children(block.block_hash) or self.store.children(block.parent)
            other = self.read_file(others[0].block_hash)
            _answer(asked, 200, other if other is not None and other != data else b"none")
        elif self.vice == "answers HTML":
            _answer(asked, 200, b"<html><body>Welcome to the hotel's network</body></html>")
        elif self.vice == "is huge":
            _answer(asked, 200, b"", says=10**12)
            while not self._over.is_set():
                asked.wfile.write(bytes(1 << 20))
        else:
            _answer(asked, int(self.vice.split()[1]), b"{}")


def _answer(asked: BaseHTTPRequestHandler, status: int, body: bytes, *, says: int | None = None) -> None:
    asked.send_response(status)
    asked.send_header("Content-Length", str(len(body) if says is None else says))
    asked.end_headers()
    asked.wfile.write(body)
