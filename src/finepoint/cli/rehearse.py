"""`finepoint rehearse`: a stand-in for AWS on this machine, to try the SageMaker engine without an account."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    bucket: Annotated[str, typer.Option("--bucket", help="Bucket that is there from the start.")] = "rehearsal",
    port: Annotated[int, typer.Option("--port", help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 0,
    region: Annotated[str, typer.Option("--region", help="Region that it plays.")] = "us-east-1",
) -> None:
    """Play AWS on this machine until Ctrl-C: SageMaker's API, and S3, IAM, STS, ECR and logs by moto.

    Submitted jobs run here, in a clean environment with the official training toolkit, and deployed models are served
    by the official inference toolkit. Nothing costs anything, and nothing that it says proves that AWS agrees.

    Examples:

        finepoint rehearse

        finepoint rehearse --port 5055 --bucket photos
    """
    import contextlib
    import signal
    import threading

    from finepoint.cli.output import say, show
    from finepoint.errors import ConfigurationError
    from finepoint.files import cache_dir

    try:
        from finepoint.engines.rehearsal.server import Rehearsal
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is not installed; pip install 'finepoint[rehearse]'") from error
    with Rehearsal(cache_dir() / "rehearsal", region=region, port=port, pause=1.0) as rehearsal:
        role = rehearsal.prepare(bucket)
        show("In another shell:")
        for name, value in rehearsal.variables().items():
            show(f"  export {name}={value}")
        show(f"  finepoint run photos/ --engine sagemaker --cloud role={role} --cloud bucket={bucket}")
        say("Ctrl-C ends it, and everything in it is lost")
        for number in (signal.SIGINT, signal.SIGTERM):  # a shell lets its background jobs ignore the first
            signal.signal(number, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
