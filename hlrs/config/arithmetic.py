"""Specs of approximate arithmetic: the multiplier of 8-bit integers, and what is computed with it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hlrs.config.base import Digest, FilePath, Spec


class ExactMultiplier(Spec):
    """Integer products of signed 8-bit codes."""

    kind: Literal["exact"] = "exact"


class TruncatedMultiplier(Spec):
    """A broken-array multiplier of signed 8-bit codes, an activation a and a weight b.

    Without the lowest bits of both operands, towards −∞, and without the partial products of low columns:

        M(a, b) = (a − a mod 2^r)(b − b mod 2^s) − Σ_{i ≥ r, j ≥ s, i + j < v} a_i b_j 2^{i + j},  i, j < 7

    with r = `activation_bits`, s = `weight_bits`, v = `columns`. These are all signed multipliers of
    EvoApproxLib (Mrazek et al. 2017), on every pair of operands.
    """

    kind: Literal["truncated"] = "truncated"
    magnitude_bits: ClassVar[int] = 7  # of a signed code
    activation_bits: Annotated[int, Field(ge=0, le=1000)] = 0
    weight_bits: Annotated[int, Field(ge=0, le=1000)] = 0
    columns: Annotated[int, Field(ge=0, le=1000)] = 0

    @model_validator(mode="after")
    def _leaves_something(self) -> "TruncatedMultiplier":
        magnitude = self.magnitude_bits
        for name in ("activation_bits", "weight_bits"):
            if (bits := getattr(self, name)) >= magnitude:
                raise ValueError(
                    f"{name} {bits} drops all {magnitude} bits of a code's magnitude, which leaves "
                    f"nothing to multiply: lower it to {magnitude - 1} or less"
                )
        most = 2 * (magnitude - 1)
        if self.columns > most:
            raise ValueError(
                f"columns {self.columns} omits all partial products of magnitudes, the highest of which is "
                f"in column {most}: lower it to {most} or less"
            )
        return self


class TableMultiplier(Spec):
    """A multiplier given by its products of all pairs of 8-bit codes, in a file.

    `file`: 65,536 little-endian uint16 (.bin, as tf-approximate reads), or an array of 256×256 integers
    (.npy, .csv); row: the activation's code, column: the weight's; codes of a signed multiplier in the order
    0 … 127, −128 … −1. Whether they are `signed` is found out, by which makes the mean error smaller, unless
    it is given. `energy` of a multiplication relative to an exact 8-bit one, for the report. `content` is the
    SHA-256 of the file, which the plan fills in.
    """

    kind: Literal["table"] = "table"
    file: FilePath
    signed: bool | None = None
    energy: Annotated[float, Field(ge=0, le=1000)] | None = None
    content: Digest | None = None


Multiplier = Annotated[ExactMultiplier | TruncatedMultiplier | TableMultiplier, Field(discriminator="kind")]


class Arithmetic(Spec):
    """Approximate products of 8-bit codes in a network's convolutions, in search, retraining and evaluation.

    A search without (`in_search: false`) shows what a genotype gains by being found with them.
    `where`: in the `primitives` that are searched, as in ApproxDARTS (Pinos et al. 2024, authors' code), or
    in all `convolutions`. Sums, batch norms, gradients and the classifier are in floating point.
    """

    multiplier: Multiplier
    where: Literal["primitives", "convolutions"] = "primitives"
    in_search: bool = True

    def without_energy(self) -> "Arithmetic":
        """Return what is computed: the same but for the energy, which only the evaluation reads."""
        if not isinstance(self.multiplier, TableMultiplier):
            return self
        multiplier = self.multiplier.model_copy(update={"energy": None})
        return self.model_copy(update={"multiplier": multiplier})
