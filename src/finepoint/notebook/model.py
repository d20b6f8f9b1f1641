"""A model behind an endpoint, and the predictor that asks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finepoint.engines.jobs import job_name
from finepoint.engines.packing import check_importable, pack_with_script
from finepoint.engines.sagemaker import endpoints
from finepoint.engines.sagemaker.hosting import Hosting
from finepoint.engines.sagemaker.images import image_for
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.errors import ConfigurationError, EndpointError, RequestError
from finepoint.files import state_dir
from finepoint.notebook.arguments import settings_from, take, tell
from finepoint.notebook.formats import BytesDeserializer, IdentitySerializer, NumpyDeserializer, NumpySerializer
from finepoint.notebook.session import local_path, session_of
from finepoint.serving.deployment import Access, deploy, find_endpoint, undeploy
from finepoint.stores import store_of


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
        self.sagemaker_session = session_of(sagemaker_session)
        take("Predictor", others, where="here")
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

    def predict(
        self,
        data: Any,
        initial_args: Mapping[str, str] | None = None,
        *,
        custom_attributes: str | None = None,
        **others: Any,
    ) -> Any:
        """Return the endpoint's answer.

        Args:
            data: what the serializer takes.
            initial_args: `ContentType`, `Accept`, `CustomAttributes`.
            custom_attributes: for the model's handler.
            others: refused: they address one of several models, or name the request.

        Raises:
            RequestError: the endpoint refused the request; it carries the status.
            EndpointError: it does not answer.
        """
        take("predict", others, where="here")
        given = dict(initial_args or {})
        content_type, accept = given.pop("ContentType", self.content_type), given.pop("Accept", self.accept)
        attributes = custom_attributes or given.pop("CustomAttributes", "")
        take("predict's initial_args", given, where="here")
        ask = self._ask_cloud if self.sagemaker_session.in_cloud else self._ask
        answer, kind = ask(self.serializer.serialize(data), content_type, accept, attributes)
        return self.deserializer.deserialize(answer, kind)

    def _ask_cloud(self, body: bytes, content_type: str, accept: str, attributes: str) -> tuple[bytes, str]:
        cloud = self.sagemaker_session.cloud
        return endpoints.predict(cloud, self.endpoint_name, body, content_type, accept, attributes)

    def _ask(self, body: bytes, content_type: str, accept: str, attributes: str) -> tuple[bytes, str]:
        import httpx

        headers = {"Content-Type": content_type, "Accept": accept}
        if attributes:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = attributes
        url = f"{find_endpoint(self.endpoint_name).url}/invocations"
        try:
            answer = httpx.post(url, content=body, headers=headers, timeout=60, trust_env=False)
        except httpx.HTTPError as error:
            raise EndpointError(f"endpoint {self.endpoint_name} does not answer ({error})") from error
        if answer.status_code != 200:
            raise RequestError(f"the endpoint answered {answer.status_code}: {answer.text[:2000]}", answer.status_code)
        return answer.content, str(answer.headers.get("content-type", ""))

    def delete_endpoint(self, delete_endpoint_config: bool = True) -> None:
        """Stop the endpoint and forget it; in AWS its configuration and model are deleted too.

        Raises:
            ConfigurationError: in AWS the configuration is to be kept.
        """
        if self.sagemaker_session.in_cloud and not delete_endpoint_config:
            raise ConfigurationError("delete_endpoint_config=False: configuration and model go with their endpoint")
        if self.sagemaker_session.in_cloud:
            endpoints.undeploy(self.sagemaker_session.cloud, self.endpoint_name)
        else:
            undeploy(self.endpoint_name)

    def delete_model(self) -> None:
        """Do nothing: on this machine the model is a file that stays, and in AWS it goes with its endpoint."""


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
        name: the endpoint's begins with it, where that has none of its own.
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
        self.sagemaker_session = session_of(others.pop("sagemaker_session", None))
        in_cloud = self.sagemaker_session.in_cloud
        self._given = {"role": role, **others} if in_cloud else {}
        take("PyTorchModel", {"role": role, **others}, in_cloud=in_cloud)
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
        """Serve the model on the session's engine, and return a predictor for it.

        Raises:
            ConfigurationError: more than one instance is asked for here, or arguments that are not supported.
            EndpointError: the server did not become healthy.
        """
        session = self.sagemaker_session
        if initial_instance_count != 1 and not session.in_cloud:
            raise ConfigurationError(f"initial_instance_count is {initial_instance_count}; this machine is one")
        take("deploy", {"instance_type": instance_type, **others}, in_cloud=session.in_cloud)
        if not wait:
            tell("wait=False has no effect here: the predictor is returned once the endpoint answers")
        name = endpoint_name or self.name
        package = self.repack(state_dir() / "models" / f"{name}.tar.gz")
        if session.in_cloud:
            settings = self._settings(instance_type, {**self._given, **others})
            endpoints.deploy(
                session.cloud, settings, package, name, hosting=Hosting(count=initial_instance_count), say=tell
            )
        else:
            check_importable(Path(self.source_dir) if self.source_dir else None)
            # Whoever writes this cell has named the script.
            deploy(package, name=name, access=Access(allow_code=True))
        predictor = self._predictor(name, session)
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
        model = local_path(self.model_data)
        store = store_of(model)
        if store is not None:
            fetched = target.with_name(f"{target.name}.model")
            fetched.parent.mkdir(parents=True, exist_ok=True)
            store.file(model, fetched)
            model = str(fetched)
        return pack_with_script(Path(model), self.entry_point, source, target)

    def _settings(self, instance_type: str | None, given: Mapping[str, Any]) -> SageMakerSettings:
        given = settings_from({name: value for name, value in given.items() if name != "image_uri"})
        given["inference_image"] = self._given.get("image_uri")
        given["inference_instance_type"] = instance_type
        settings = self.sagemaker_session.settings(**given)
        if settings.inference_image or not self._given.get("framework_version"):
            return settings
        image = image_for(
            "inference",
            self.sagemaker_session.boto_region_name,
            settings.inference_instance_type,
            version=self._given["framework_version"],
            python=self._given.get("py_version") or "",
        )
        return replace(settings, inference_image=image)
