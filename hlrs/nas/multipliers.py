"""Multipliers of 8-bit integers: their products, errors and published figures."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hlrs.config.arithmetic import TruncatedMultiplier
from hlrs.errors import UserError

# Energy of a multiplication in pJ at 45 nm, in 32-bit floating point and of 8-bit integers (Horowitz 2014)
FLOAT32_ENERGY = 3.7
INTEGER_ENERGY = 0.2
CODES = 256
MAGNITUDE = TruncatedMultiplier.magnitude_bits
PRODUCTS = CODES**2  # values of 16 bits
Products = npt.NDArray[np.int64]  # [256, 256], by codes in ascending order: from −128, or from 0


class Circuit(NamedTuple):
    """Figures of a circuit of EvoApproxLib, from the headers of its C files (45 nm, clock not stated).

    `names` on the branches master (2019) and v2022, where some mean another circuit. Errors over all pairs of
    operands: mean absolute, worst, rate in per cent, mean squared. Power in mW, area in µm², delay in ns.
    """

    names: tuple[str, str]
    mean_error: float
    worst_error: int
    error_rate: float
    mean_squared_error: float
    power: float
    area: float
    delay: float


CIRCUITS = {  # by activation_bits, weight_bits, columns
    (0, 0, 0): Circuit(("mul8s_1KV8", "mul8s_1KV6"), 0, 0, 0, 0, 0.425, 729.8, 1.48),
    (0, 0, 2): Circuit(("mul8s_1KVA", "mul8s_1KV8"), 1.25, 5, 50.00, 3.75, 0.422, 711.0, 1.48),
    (0, 0, 3): Circuit(("mul8s_1KVB", "mul8s_1KV9"), 4.25, 17, 68.75, 34.25, 0.410, 685.2, 1.47),
    (0, 0, 4): Circuit(("mul8s_1KX2", "mul8s_1KVA"), 12.25, 49, 81.25, 248.25, 0.391, 641.1, 1.51),
    (1, 0, 0): Circuit(("mul8s_1KR8", "mul8s_1KVM"), 32, 128, 49.80, 2730.75, 0.369, 652.8, 1.37),
    (1, 0, 3): Circuit(("mul8s_1KR6", "mul8s_1KVP"), 33.28, 137, 74.80, 2746.25, 0.363, 635.0, 1.37),
    (1, 0, 4): Circuit(("mul8s_1KRC", "mul8s_1KVQ"), 36.54, 161, 84.18, 2872.25, 0.351, 599.8, 1.36),
    (1, 1, 0): Circuit(("mul8s_1L2H", "mul8s_1L2J"), 53.33, 255, 74.61, 5461.75, 0.301, 558.9, 1.36),
    (2, 0, 5): Circuit(("mul8s_1KVL", "mul8s_1KX5"), 101.3, 449, 91.89, 19690.2, 0.289, 543.0, 1.33),
    (2, 2, 0): Circuit(("mul8s_1L2D", "mul8s_1L2L"), 149.8, 759, 93.16, 38236.2, 0.200, 411.6, 1.14),
    (3, 0, 0): Circuit(("mul8s_1KTY", "mul8s_1KXF"), 224, 896, 87.16, 95576.2, 0.237, 482.4, 1.19),
    (3, 3, 0): Circuit(("mul8s_1L1G", "mul8s_1L2N"), 339.9, 1743, 97.75, 191238, 0.126, 284.9, 0.94),
    (6, 0, 0): Circuit(("mul8s_1KR3", "mul8s_1L12"), 2016, 8064, 98.05, 7.28e6, 0.052, 172.2, 0.89),
}


def exact_products(signed: bool) -> Products:
    """Compute the exact products of all codes."""
    codes: Products = np.arange(CODES, dtype=np.int64) - (CODES // 2 if signed else 0)
    return codes[:, None] * codes


def truncated_products(activation_bits: int, weight_bits: int, columns: int) -> Products:
    """Compute M(a, b) of `TruncatedMultiplier` for all codes."""
    a, b = np.ogrid[-CODES // 2 : CODES // 2, -CODES // 2 : CODES // 2]
    products: Products = (a - a % 2**activation_bits) * (b - b % 2**weight_bits)
    for i in range(activation_bits, MAGNITUDE):
        for j in range(weight_bits, MAGNITUDE):
            if i + j < columns:
                products -= ((a >> i) & 1) * ((b >> j) & 1) * 2 ** (i + j)
    return products


@dataclass(frozen=True)
class Errors:
    """Errors of a multiplier over all pairs of operands: mean absolute, worst, rate, mean squared."""

    mean: float
    worst: int
    rate: float
    mean_squared: float


def errors(products: Products, signed: bool) -> Errors:
    """Compare a multiplier's products with the exact ones."""
    error = np.abs(products - exact_products(signed))
    squared = error.astype(np.float64) ** 2
    return Errors(float(error.mean()), int(error.max()), float((error > 0).mean()), float(squared.mean()))


def describe_products(table: "Table") -> str:
    """Say what a table holds: exact or not, signed or not, and its errors."""
    found = errors(*table)
    operands = "signed" if table.signed else "unsigned"
    if found.worst == 0:
        return f"exact products of {operands} codes"
    return (
        f"approximate products of {operands} codes; mean error {found.mean:.4g}, worst {found.worst:,}, "
        f"{100 * found.rate:.2f} % of all pairs"
    )


# --- tables in files --------------------------------------------------------------------------------------


class Table(NamedTuple):
    """A multiplier as its file has it, and whether its codes are signed."""

    products: Products
    signed: bool


def read_products(path: str, signed: bool | None = None) -> Table:
    """Read a multiplier's table, as `TableMultiplier` describes it; UserError if the file holds none."""
    file = Path(path)
    read = READERS.get(file.suffix)
    if read is None:
        raise UserError(f"{path}: a table of products is a file .bin, .npy or .csv; rename or convert it")
    try:
        values = read(file)
    except (OSError, ValueError, EOFError) as error:
        problem = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(f"{path}: no table of products ({problem}); give 256×256 integers") from None
    if not -PRODUCTS // 2 <= values.min() <= values.max() < PRODUCTS:
        largest = max(values.min(), values.max(), key=abs)
        raise UserError(f"{path}: holds {largest}, and products of 8-bit codes have 16 bits; check the file")
    read_as = {False: _as_unsigned(values), True: _as_signed(values)}
    return min(read_as.values(), key=_mean_error) if signed is None else read_as[signed]


def _as_unsigned(values: npt.NDArray[Any]) -> Table:
    return Table(values.astype(np.int64), False)


def _as_signed(values: npt.NDArray[Any]) -> Table:
    """Bring codes from 0 … 127, −128 … −1 into ascending order; 16 bits are two's complement."""
    signed = values.astype(np.int64)
    signed[signed >= PRODUCTS // 2] -= PRODUCTS
    return Table(np.roll(signed, CODES // 2, (0, 1)), True)


def _mean_error(table: Table) -> float:
    return errors(*table).mean


def _read_binary(file: Path) -> npt.NDArray[Any]:
    if (size := file.stat().st_size) != 2 * CODES**2:
        raise ValueError(f"{size:,} bytes; 65,536 uint16 have 131,072")
    return np.fromfile(file, "<u2").astype(np.uint16).reshape(CODES, CODES)


def _read_array(file: Path) -> npt.NDArray[Any]:
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError("no array of numbers") from error
    if not isinstance(values, np.ndarray):
        raise ValueError("an archive of arrays")
    if values.dtype.kind not in "iu":
        raise ValueError(f"an array of {values.dtype}")
    if values.shape != (CODES, CODES):
        raise ValueError(f"an array {list(values.shape)}")
    return np.array(values)


def _read_text(file: Path) -> npt.NDArray[Any]:
    with warnings.catch_warnings(action="ignore"):  # of an empty file
        values = np.loadtxt(file, np.int64, delimiter=",", ndmin=2, max_rows=CODES + 1, encoding="utf-8-sig")
    if values.shape != (CODES, CODES):
        raise ValueError(f"{values.shape[0]} rows of {values.shape[1]} numbers")
    return values


READERS: dict[str, Callable[[Path], npt.NDArray[Any]]] = {
    ".bin": _read_binary,
    ".npy": _read_array,
    ".csv": _read_text,
}
