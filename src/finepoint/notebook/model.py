"""A model behind an endpoint, and the predictor that asks it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finepoint.engines.jobs import job_name
from finepoint.engines.packing import pack_with_script
from finepoint.errors import ConfigurationError, EndpointError, RequestError
from finepoint.files import state_dir
from finepoint.notebook.arguments import take
from finepoint.notebook.formats import BytesDeserializer, IdentitySerializer, NumpyDeserializer, NumpySerializer
from finepoint.notebook.session import local_path
from finepoint.serving.deployment import Access, deploy, find_endpoint, undeploy


class Predictor:
    """Asks an endpoint; may be subclassed as in the SDK.

    Args:
        endpoint_name: a name on this machine, or an address.
        serializer: turns data into a body, and says its content type.
        deserializer: says what is accepted, and reads the answer.
    """

    def __init__(
        self,
        endpoint_name: str,
        sagemaker_session: Any = None,
        serializer: Any = None,
        deserializer: Any = None,
        **others: Any,
    ) -> None:
        take("Predictor", others)
        self.endpoint_name = endpoint_name
        self.serializer = serializer or IdentitySerializer()
        self.deserializer = deserializer or BytesDeserializer()

    @property
    def content_type(self) -> str:
        """Of what is sent."""
        return str(self.serializer.CONTENT_TYPE)

    @property
    def accept(self) -> str:
        """What is asked for."""
        return ", ".join(self.deserializer.ACCEPT)

    def predict(self, data: Any, initial_args: Mapping[str, str] | None = None, **others: Any) -> Any:
        """Return the endpoint's answer.

        Args:
            data: what the serializer takes.
            initial_args: `ContentType`, `Accept`, `CustomAttributes`.
            others: refused: they address one of several models.

        Raises:
            RequestError: the endpoint refused the request; it carries the status.
            EndpointError: it does not answer.
        """
        import httpx

        take("predict", others, recorded=frozenset())
        given = dict(initial_args or {})
        headers = {
            "Content-Type": given.pop("ContentType", self.content_type),
            "Accept": given.pop("Accept", self.accept),
        }
        if "CustomAttributes" in given:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = given.pop("CustomAttributes")
        take("predict's initial_args", given, recorded=frozenset())
        url = f"{find_endpoint(self.endpoint_name).url}/invocations"
        body = self.serializer.serialize(data)
        try:
            answer = httpx.post(url, content=body, headers=headers, timeout=60, trust_env=False)
        except httpx.HTTPError as error:
            raise EndpointError(f"endpoint {self.endpoint_name} does not answer ({error})") from error
        if answer.status_code != 200:
            raise RequestError(f"the endpoint answered {answer.status_code}: {answer.text[:2000]}", answer.status_code)
        return self.deserializer.deserialize(answer.content, answer.headers.get("content-type", ""))

    def delete_endpoint(self, delete_endpoint_config: bool = True) -> None:
        """Stop the endpoint and forget it."""
        undeploy(self.endpoint_name)

    def delete_model(self) -> None:
        """Do nothing: the model is a file that stays."""


class PyTorchPredictor(Predictor):
    """The SDK's default for PyTorch models: sends and expects arrays in NumPy's format."""

    def __init__(
        self, endpoint_name: str, sagemaker_session: Any = None, serializer: Any = None, deserializer: Any = None
    ) -> None:
        super().__init__(
            endpoint_name, sagemaker_session, serializer or NumpySerializer(), deserializer or NumpyDeserializer()
        )


class PyTorchModel:
    """A model.tar.gz, and the script that serves it.

    Args:
        model_data: the model.tar.gz.
        role: recorded.
        entry_point: with `model_fn` and perhaps `input_fn`, `predict_fn`, `output_fn`.
        source_dir: that holds it and what it imports; without it the script comes alone.
        predictor_cls: made with the endpoint's name and a session.
    """

    def __init__(
        self,
        model_data: str,
        role: str | None = None,
        entry_point: str | None = None,
        *,
        source_dir: str | None = None,
        predictor_cls: Any = None,
        name: str | None = None,
        **others: Any,
    ) -> None:
        take("PyTorchModel", {"role": role, **others})
        if entry_point is None:
            raise ConfigurationError("PyTorchModel: entry_point is missing; name the script that has model_fn")
        self.model_data = model_data
        self.entry_point, self.source_dir = entry_point, source_dir
        self.name = job_name(name or "pytorch-model")
        self._predictor = predictor_cls or PyTorchPredictor

    def deploy(
        self,
        initial_instance_count: int = 1,
        instance_type: str | None = None,
        serializer: Any = None,
        deserializer: Any = None,
        *,
        endpoint_name: str | None = None,
        wait: bool = True,
        **others: Any,
    ) -> Any:
        """Serve the model on this machine, and return a predictor for it.

        Raises:
            ConfigurationError: more than one instance is asked for, or arguments that are not supported here.
            EndpointError: the server did not become healthy.
        """
        if initial_instance_count != 1:
            raise ConfigurationError(f"initial_instance_count is {initial_instance_count}; this machine is one")
        take("deploy", {"instance_type": instance_type, **others})
        name = endpoint_name or self.name
        # Whoever writes this cell has named the script.
        deploy(self.repack(state_dir() / "models" / f"{name}.tar.gz"), name=name, access=Access(allow_code=True))
        predictor = self._predictor(name, None)
        if serializer is not None:
            predictor.serializer = serializer
        if deserializer is not None:
            predictor.deserializer = deserializer
        return predictor

    def repack(self, target: Path) -> Path:
        """Write a model.tar.gz with the script in its `code/`, as the SDK does, and return it.

        Raises:
            ConfigurationError: model or script are missing, or the archive is unsafe.
        """
        source = Path(self.source_dir) if self.source_dir else None
        return pack_with_script(Path(local_path(self.model_data)), self.entry_point, source, target)
