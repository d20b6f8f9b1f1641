"""What a launcher and the attachment in its job agree on. No torch is imported to know it."""

from __future__ import annotations

# The attachment, as `finepoint.attaching` takes it.
NAME = "finepoint.debugger.attachment:attach"
# Where the recording goes, and the share of the job's time that it may take.
FOLDER_VARIABLE = "FINEPOINT_DEBUG_DIR"
BUDGET_VARIABLE = "FINEPOINT_DEBUG_BUDGET"
