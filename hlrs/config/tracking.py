"""Specs of what follows trainings while they run; no result depends on it."""

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hlrs.config.base import FilePath, Name, Spec


def _outside_results(folder: str) -> str:
    if PurePath(folder).parts[:1] == ("results",):
        raise ValueError(f"{folder} is among the results, all of which are checked: choose another folder")
    return folder


Curves = Annotated[FilePath, AfterValidator(_outside_results)]


class TensorBoard(Spec):
    """Event files for TensorBoard, below `folder`: data set/method/seed/stage/key of the job."""

    kind: Literal["tensorboard"] = "tensorboard"
    folder: Curves = "tracking/tensorboard"


class Mlflow(Spec):
    """Runs of MLflow, called data set/method/seed/stage, on a server or in a folder.

    The environment variable MLFLOW_TRACKING_URI takes precedence over `uri`.
    """

    kind: Literal["mlflow"] = "mlflow"
    uri: Curves = "tracking/mlflow"  # address of a server, or a folder
    experiment: Name = "hlrs"


Tracking = Annotated[TensorBoard | Mlflow, Field(discriminator="kind")]
