"""Specs of what follows trainings while they run; no result depends on it."""

from typing import Annotated, Literal

from pydantic import Field

from hlrs.config.base import FilePath, Name, Spec


class TensorBoard(Spec):
    """Event files for TensorBoard, below `folder`: data set/method/seed/stage/key of the job."""

    kind: Literal["tensorboard"] = "tensorboard"
    folder: FilePath = "tracking"


class Mlflow(Spec):
    """Runs of MLflow, called data set/method/seed/stage, on a server or in a folder.

    The environment variable MLFLOW_TRACKING_URI takes precedence over `uri`.
    """

    kind: Literal["mlflow"] = "mlflow"
    uri: FilePath = "tracking"  # address of a server, or a folder
    experiment: Name = "hlrs"


Tracking = Annotated[TensorBoard | Mlflow, Field(discriminator="kind")]
