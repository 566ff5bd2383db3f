"""Multipliers of 8-bit codes: the published circuits, and tables as users have them."""

import io

import numpy as np
import pytest

from hlrs.errors import UserError
from hlrs.nas.multipliers import (
    CIRCUITS,
    describe_products,
    errors,
    read_products,
    truncated_products,
)

SIGNED = np.arange(-128, 128)
UNSIGNED = np.arange(256)


@pytest.mark.parametrize("omitted", CIRCUITS)
def test_errors_of_the_circuits_are_the_published_ones(omitted):
    found, published = errors(truncated_products(*omitted), signed=True), CIRCUITS[omitted]
    digits = {"rel": 0.0005} if published.mean_error > 100 else {"abs": 0.006}  # as many as are published
    assert found.mean == pytest.approx(published.mean_error, **digits)
    assert found.worst == published.worst_error
    assert 100 * found.rate == pytest.approx(published.error_rate, abs=0.006)
    assert found.mean_squared == pytest.approx(published.mean_squared_error, rel=0.0005)


def test_single_products():
    # 0,0,4 of 7 · 5 = 0111 · 0101: columns 0 to 3 are 1 + 2 + 4 of b's bit 0 and 4 + 8 of its bit 2
    assert truncated_products(0, 0, 4)[128 + 7, 128 + 5] == 35 - (1 + 2 + 4 + 4 + 8)
    # 1,1,0 of −7 · 5: rounded down to −8 and 4
    assert truncated_products(1, 1, 0)[128 - 7, 128 + 5] == -32


def write(path, values):
    if path.suffix == ".bin":
        values.astype("<i8").astype("<u2").tofile(path)
    elif path.suffix == ".npy":
        np.save(path, values)
    else:
        np.savetxt(path, values, "%d", delimiter=",")
    return str(path)


@pytest.mark.parametrize("suffix", [".bin", ".npy", ".csv"])
def test_tables_are_read_and_described(tmp_path, suffix):
    unsigned = np.multiply.outer(UNSIGNED, UNSIGNED)
    table = read_products(write(tmp_path / f"exact{suffix}", unsigned))
    assert not table.signed
    assert np.array_equal(table.products, unsigned)
    assert describe_products(table) == "exact products of unsigned codes"

    signed = truncated_products(0, 0, 4)
    in_their_order = np.roll(signed, -128, (0, 1))  # 0 … 127, −128 … −1
    table = read_products(write(tmp_path / f"signed{suffix}", in_their_order))
    assert table.signed
    assert np.array_equal(table.products, signed)
    assert (
        describe_products(table)
        == "approximate products of signed codes; mean error 12.25, worst 49, 81.25 % of all pairs"
    )


def test_a_table_can_say_that_it_is_unsigned(tmp_path):
    path = write(tmp_path / "zero.npy", np.zeros((256, 256), int))
    assert read_products(path).signed  # zero is nearer to signed products
    assert not read_products(path, signed=False).signed


def archive():
    content = io.BytesIO()
    np.savez(content, np.zeros(1))
    return content.getvalue()


ARCHIVE = archive()


def test_twos_complements_are_read_from_any_integers(tmp_path):
    signed = np.roll(truncated_products(1, 0, 3), -128, (0, 1))
    for number, dtype in enumerate(("<u2", ">u2", "i4", "i8")):
        table = read_products(write(tmp_path / f"{number}.npy", (signed % 2**16).astype(dtype)))
        assert table.signed
        assert np.array_equal(table.products, truncated_products(1, 0, 3))
    file = tmp_path / "bom.csv"
    np.savetxt(file, signed % 2**16, "%d", delimiter=",", encoding="utf-8-sig")
    assert np.array_equal(read_products(str(file)).products, truncated_products(1, 0, 3))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("short.bin", b"\0" * 100, "100 bytes; 65,536 uint16 have 131,072"),
        ("t.txt", b"", "is a file .bin, .npy or .csv"),
        ("absent.bin", None, "No such file"),
        ("words.csv", b"a,b\n", "could not convert"),
        ("few.csv", b"1,2\n3,4\n", "2 rows of 2 numbers"),
        ("empty.csv", b"", "0 rows of"),
        ("pickle.npy", b"\x80\x04K\x01.", "no array of numbers"),
        ("archive.npy", ARCHIVE, "an archive of arrays"),
        ("deep.npy", np.zeros((3, 256, 256), int), r"an array \[3, 256, 256\]"),
        ("float.npy", np.zeros((256, 256)), "an array of float64"),
        ("wide.npy", np.full((256, 256), 65_536), "holds 65536, and products of 8-bit codes have 16 bits"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, name, content, expected):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=expected) as caught:
        read_products(str(path))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
