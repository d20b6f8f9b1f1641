"""The hook with smdebug's names, steps and defaults."""

from typing import Any

from finepoint.debugger.hook import Hook as OurHook


class Hook(OurHook):
    """Saves what smdebug would: by default the losses, whole, every 500 steps; without a mode steps are global."""

    compatible = True

    def __init__(self, out_dir: Any = None, *arguments: Any, **named: Any) -> None:
        from smdebug.pytorch.singleton_utils import set_hook

        if out_dir is None:
            raise RuntimeError("out_dir is a required argument")
        super().__init__(out_dir, *arguments, **{"include_workers": "one", **named})
        set_hook(self)
