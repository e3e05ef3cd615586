#!/usr/bin/env python3
"""Writes compressed messages as other senders make them: every window, level and strategy of C zlib,
cut into fragments anywhere. `generate.py > vectors.txt`; README.md one folder up has the format."""

import hashlib
import random
import zlib

STRATEGIES = {
    "default": zlib.Z_DEFAULT_STRATEGY,
    "filtered": zlib.Z_FILTERED,
    "huffman": zlib.Z_HUFFMAN_ONLY,
    "rle": zlib.Z_RLE,
    "fixed": zlib.Z_FIXED,
}
WORDS = "relay note zap boost follow sats lightning filter event tag kind ünïcode 电 😀 key".split()


def text(rng, size):
    out = b""
    while len(out) < size:
        out += b'["EVENT",{"content":"%s","pubkey":"%064x"}]' % (
            " ".join(rng.choices(WORDS, k=rng.randrange(3, 30))).encode(),
            rng.getrandbits(64) << 8,
        )
    while out[size : size + 1] and out[size] & 0xC0 == 0x80:
        size -= 1
    return out[:size]


def compressed(plain, bits, level, strategy, flushes):
    codec = zlib.compressobj(level, zlib.DEFLATED, -bits, 8, STRATEGIES[strategy])
    out, at = b"", 0
    for end in sorted(flushes):
        out += codec.compress(plain[at:end]) + codec.flush(zlib.Z_SYNC_FLUSH)
        at = end
    out += codec.compress(plain[at:]) + codec.flush(zlib.Z_SYNC_FLUSH)
    assert out.endswith(b"\x00\x00\xff\xff")
    return out[:-4]


def main():
    rng = random.Random(7692)
    cases = [(bits, 6, "default", 3_000) for bits in range(9, 16)]
    cases += [(15, level, "default", 2_000) for level in (0, 1, 3, 9)]
    cases += [(15, 6, strategy, 1_500) for strategy in STRATEGIES]
    cases += [(9, 0, "default", 700), (15, 9, "default", 40_000), (10, 1, "fixed", 1_000)]
    cases += [(15, 6, "default", size) for size in (0, 1, 2, 16, 64, 125, 126, 127, 128, 16_384, 16_385)]
    for bits, level, strategy, size in cases:
        plain = text(rng, size)
        flushes = rng.sample(range(len(plain)), min(len(plain) // 500, 3))
        message = compressed(plain, bits, level, strategy, flushes)
        name = "%d bits, level %d, %s" % (bits, level, strategy)
        print("case %s, %d bytes, %s" % (name, len(plain), hashlib.sha1(plain).hexdigest()))
        cuts = sorted(rng.sample(range(len(message) + 1), min(len(message), rng.choice((0, 1, 5)))))
        ends = cuts + [len(message)]
        for number, (start, end) in enumerate(zip([0] + cuts, ends)):
            first = (0x41 if number == 0 else 0x00) | (0x80 if number == len(ends) - 1 else 0)
            print("> %02x %s" % (first, message[start:end].hex() or "-"))


main()
