"""What a rule says of a recording: the type that the profiler's rules use too."""

from __future__ import annotations

from finepoint.results import RuleResult as RuleResult
from finepoint.results import Status as Status
