"""Spark's hash in Python workers against the algorithm written again, and its published values."""

import numpy as np
import pyarrow as pa
import pytest

from feature_eng.xxhash64 import hash_ints, hash_texts

_M = 2**64 - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def xxh64(data: bytes, seed: int) -> int:
    """XXH64, after the algorithm's specification."""

    def rotate(value: int, by: int) -> int:
        return (value << by | value >> (64 - by)) & _M

    def turned(lane: int, word: bytes) -> int:
        return rotate((lane + int.from_bytes(word, "little") * _P2) & _M, 31) * _P1 & _M

    h, size = seed + _P5, len(data)
    if size >= 32:
        lanes = [seed + _P1 + _P2, seed + _P2, seed, seed - _P1]
        while len(data) >= 32:
            lanes = [turned(lane, data[8 * n : 8 * n + 8]) for n, lane in enumerate(lanes)]
            data = data[32:]
        h = sum(rotate(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _M
        for lane in lanes:
            h = ((h ^ turned(0, lane.to_bytes(8, "little"))) * _P1 + _P4) & _M
    h = (h + size) & _M
    while len(data) >= 8:
        h, data = (rotate(h ^ turned(0, data[:8]), 27) * _P1 + _P4) & _M, data[8:]
    if len(data) >= 4:
        h ^= int.from_bytes(data[:4], "little") * _P1 & _M
        h, data = (rotate(h, 23) * _P2 + _P3) & _M, data[4:]
    for byte in data:
        h = rotate(h ^ byte * _P5 & _M, 11) * _P1 & _M
    h = (h ^ h >> 33) * _P2 & _M
    h = (h ^ h >> 29) * _P3 & _M
    return h ^ h >> 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # as tests of github.com/cespare/xxhash have them
        ("", 0xEF46DB3751D8E999),
        ("a", 0xD24EC4F1A98C6E5B),
        ("asdf", 0x415872F599CEA71E),
        ("Call me Ishmael. Some years ago--never mind how long precisely-", 0x02A2E85470D6FD96),
    ],
)
def test_published_values(text: str, expected: int) -> None:
    hashes = hash_texts(np.zeros(1, np.uint64), pa.array(["cut off", text])[1:])
    assert hashes.tolist() == [expected]


def test_every_text_and_number_has_a_seed_of_its_own() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("aé\u20ac"), size)) for size in (*range(11), 12, 16, 40, 70)]
    seeds = rng.integers(0, 2**64, len(texts), np.uint64)
    encoded = [text.encode() for text in texts]
    assert max(map(len, encoded)) > 96, "two rounds of four lanes"
    expected = [xxh64(text, seed) for text, seed in zip(encoded, seeds.tolist(), strict=True)]
    assert hash_texts(seeds, pa.array(texts)).tolist() == expected
    assert hash_texts(seeds[:1], pa.array(texts[1:3])).tolist() == [
        xxh64(text, int(seeds[0])) for text in encoded[1:3]
    ]
    numbers = np.array([0, -1, 2**31 - 1, -(2**31), 7], np.int32)
    expected = [
        xxh64(number.tobytes(), seed) for number, seed in zip(numbers, seeds.tolist(), strict=False)
    ]
    assert hash_ints(seeds[:5], numbers).tolist() == expected
