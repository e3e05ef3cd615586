"""A WebSocket client (RFC 6455) for JSON messages: text frames, fragments, pings, close."""

import base64
import json
import os
import select
import socket
import struct

MESSAGE_BYTES_MAX = 8 << 20
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


class Cut(Exception):
    """The connection is gone: refused, reset, closed or silent for too long."""


class Client:
    """One connection. Not to be shared between threads."""

    def __init__(self, address, timeout_s=60.0):
        self.timeout_s = timeout_s
        self.received = bytearray()
        self.unsent = bytearray()
        try:
            self.socket = socket.create_connection(address, timeout=timeout_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._upgrade(address)
            self.socket.setblocking(False)
        except OSError as error:
            raise Cut(f"connecting: {error}") from error

    def _upgrade(self, address):
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET / HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = bytearray()
        while b"\r\n\r\n" not in head:
            chunk = self.socket.recv(4096)
            if not chunk:
                raise Cut("the relay closed during the upgrade")
            head += chunk
        line, _, _ = bytes(head).partition(b"\r\n")
        if b" 101" not in line:
            raise Cut(f"no upgrade: {line.decode(errors='replace')}")
        self.received += head[head.index(b"\r\n\r\n") + 4 :]

    def close(self):
        self.socket.close()

    def queue_text(self, text):
        """Appends a message to what `pump` sends; `text` is str or bytes."""
        self._queue_frame(TEXT, text.encode() if isinstance(text, str) else text)

    def _queue_frame(self, opcode, payload):
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        elif length < 1 << 16:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
        mask = os.urandom(4)
        pad = (mask * (length // 4 + 1))[:length]
        masked = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
        self.unsent += head + mask + masked.to_bytes(length, "big")

    def send(self, message):
        """Sends one message and does not wait for an answer."""
        self.queue_text(json.dumps(message, separators=(",", ":"), ensure_ascii=False))

    def recv(self, timeout_s=None):
        """The next message, decoded; sends what is queued meanwhile."""
        patience_s = self.timeout_s if timeout_s is None else timeout_s
        parts = bytearray()
        while True:
            frame = self._frame()
            if frame is None:
                self._pump(patience_s)
                continue
            final, opcode, payload = frame
            if opcode == PING:
                self._queue_frame(PONG, payload)
            elif opcode == CLOSE:
                raise Cut(f"closed by the relay: {payload[2:].decode(errors='replace')!r}")
            elif opcode in (TEXT, BINARY, CONTINUATION):
                parts += payload
                if final:
                    return json.loads(parts.decode())

    def _pump(self, patience_s):
        """Moves bytes in both directions; returns when some have come."""
        try:
            while True:
                writing = [self.socket] if self.unsent else []
                ready, writable, _ = select.select([self.socket], writing, [], patience_s)
                if not ready and not writable:
                    raise Cut(f"nothing was heard for {patience_s:.0f} s")
                if writable:
                    sent = self.socket.send(self.unsent[: 1 << 20])
                    del self.unsent[:sent]
                if ready:
                    chunk = self.socket.recv(1 << 18)
                    if not chunk:
                        raise Cut("the connection ended")
                    self.received += chunk
                    return
        except OSError as error:
            raise Cut(str(error)) from error

    def _frame(self):
        """The next whole frame, if it has arrived: (is final, opcode, payload)."""
        buffer = self.received
        if len(buffer) < 2:
            return None
        if buffer[1] & 0x80 or buffer[0] & 0x70:
            raise Cut("the relay sent a masked or extended frame")
        length, at = buffer[1] & 0x7F, 2
        if length == 126:
            if len(buffer) < 4:
                return None
            length, at = struct.unpack_from("!H", buffer, 2)[0], 4
        elif length == 127:
            if len(buffer) < 10:
                return None
            length, at = struct.unpack_from("!Q", buffer, 2)[0], 10
        if length > MESSAGE_BYTES_MAX:
            raise Cut(f"the relay announced a frame of {length} bytes")
        if len(buffer) < at + length:
            return None
        frame = bool(buffer[0] & 0x80), buffer[0] & 0x0F, bytes(buffer[at : at + length])
        del buffer[: at + length]
        return frame


def query(client, filter_):
    """All events that one REQ answers, up to EOSE."""
    subscription = "q" + os.urandom(4).hex()
    client.send(["REQ", subscription, filter_])
    events = []
    while True:
        message = client.recv()
        if message[0] == "EVENT" and message[1] == subscription:
            events.append(message[2])
        elif message[0] == "EOSE" and message[1] == subscription:
            client.send(["CLOSE", subscription])
            return events
        elif message[0] == "CLOSED" and message[1] == subscription:
            raise Cut(f"the relay refused a query: {message[2:]}")
