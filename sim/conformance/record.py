#!/usr/bin/env python3
"""Turns a run of the live suite into vectors that need no suite.

  record.py proxy LISTEN_PORT ECHO_PORT DIRECTORY   stands between client and server and keeps the
                                                    bytes of both directions of each connection
  record.py freeze DIRECTORY INDEX_JSON > FILE      writes the vectors of the cases that passed

The format of FILE is described in README.md next to this script.
"""

import json
import os
import re
import select
import socket
import sys
import threading


def pump_client(client, server, path, ended):
    """What the client says, until the server has said its last word."""
    with open(path, "wb") as kept:
        while data := received(client):
            if not ended.is_set():
                kept.write(data)
            try:
                server.sendall(data)
            except OSError:
                break
    shut(server)


def pump_server(server, client, path, ended):
    """What the server says. A last word is held back until it is known to be the last, so that
    nothing of the client's reaction to it is kept: it may come in the middle of a frame."""
    with open(path, "wb") as kept:
        data = received(server)
        while data:
            kept.write(data)
            readable, _, _ = select.select([server], [], [], 0.02)
            following = received(server) if readable else None
            if following == b"":
                ended.set()
            try:
                client.sendall(data)
            except OSError:
                break
            data = received(server) if following is None else following
    shut(client)


def received(source):
    try:
        return source.recv(65536)
    except OSError:
        return b""


def shut(sink):
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def proxy(listen_port, echo_port, directory):
    os.makedirs(directory, exist_ok=True)
    listener = socket.create_server(("127.0.0.1", listen_port))
    number = 0
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", echo_port))
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        path = os.path.join(directory, "%04d" % number)
        number += 1
        ended = threading.Event()
        for pump, args in (
            (pump_client, (client, server, path + ".client", ended)),
            (pump_server, (server, client, path + ".server", ended)),
        ):
            threading.Thread(target=pump, args=args, daemon=True).start()


def frames(data):
    """(first byte, is masked, payload, announced length) of each frame, and what is left. The length
    must be written minimally, since the vectors keep it once. Where the server had heard enough, a
    part of the last frame may be missing, or a part of its header."""
    whole = []
    while len(data) >= 2:
        first, second = data[0], data[1]
        length, at = second & 0x7F, 2
        if length == 126:
            length, at = int.from_bytes(data[2:4], "big"), 4
            assert length > 125
        elif length == 127:
            length, at = int.from_bytes(data[2:10], "big"), 10
            assert length > 65535
        mask = b""
        if second & 0x80:
            mask, at = data[at : at + 4], at + 4
        if len(data) < at:
            break
        payload = data[at : at + length]
        if mask:
            payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        whole.append((first, bool(mask), payload, length))
        data = data[at + length :]
    return whole, data


def written(payload):
    """Hex, with what repeats written once: `(2a)*125`."""
    out, plain, at = [], b"", 0
    while at < len(payload):
        best = None
        for period in range(1, 17):
            unit, count = payload[at : at + period], 1
            while payload[at + count * period : at + (count + 1) * period] == unit:
                count += 1
            if len(unit) == period and count > 1 and count * period > 16 and best is None:
                best = unit, count
        if best is None:
            plain += payload[at : at + 1]
            at += 1
            continue
        if plain:
            out.append(plain.hex())
            plain = b""
        unit, count = best
        out.append("(%s)*%d" % (unit.hex(), count))
        at += len(unit) * count
    if plain:
        out.append(plain.hex())
    return " ".join(out) or "-"


def freeze(directory, index):
    (cases,) = json.load(open(index)).values()
    order = sorted(cases, key=lambda case: [int(part) for part in case.split(".")])
    captured = sorted(name for name in os.listdir(directory) if name.endswith(".client"))
    assert len(order) == len(captured), (len(order), len(captured))
    for case, name in zip(order, captured):
        assert cases[case]["behavior"] in ("OK", "INFORMATIONAL"), case
        print("case %s" % case)
        for side, sign in ((".client", ">"), (".server", "<")):
            data = open(os.path.join(directory, name[:-7] + side), "rb").read()
            head, _, rest = data.partition(b"\r\n\r\n")
            assert re.match(rb"GET |HTTP/1.1 101 ", head)
            whole, left = frames(rest)
            for first, is_masked, payload, length in whole:
                assert is_masked == (sign == ">")
                announced = "/%d" % length if len(payload) < length else ""
                assert not announced or sign == ">"
                if sign == "<" and first & 0x0F == 8:
                    # The code counts; the words behind it are the server's own.
                    payload = payload[:2]
                print("%s %02x%s %s" % (sign, first, announced, written(payload)))
            if left:
                assert sign == ">"
                print("> raw %s" % left.hex())


if __name__ == "__main__":
    if sys.argv[1:2] == ["proxy"] and len(sys.argv) == 5:
        proxy(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    elif sys.argv[1:2] == ["freeze"] and len(sys.argv) == 4:
        freeze(sys.argv[2], sys.argv[3])
    else:
        sys.exit(__doc__)
