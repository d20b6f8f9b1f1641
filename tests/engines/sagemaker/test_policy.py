"""The policy in the documentation allows every call that the source makes, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import finepoint
from finepoint.engines.sagemaker import cloud

ROOM = Path(cloud.__file__).parent
DOCUMENT = Path(__file__).parents[3] / "docs" / "sagemaker.md"
# S3's operations and the actions that allow them; elsewhere both have the same name.
S3 = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "ListParts": "s3:ListMultipartUploadParts",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
}
# Allowed to everybody; and what other calls do for us: the role is passed, tags are set at creation.
ALWAYS = {"sts:GetCallerIdentity"}
# ... and a policy of growing makes its role and its alarms in our name.
WITH_OTHERS = {"iam:PassRole", "sagemaker:AddTags", "iam:CreateServiceLinkedRole"}
WITH_OTHERS |= {f"cloudwatch:{operation}" for operation in ("PutMetricAlarm", "DescribeAlarms", "DeleteAlarms")}
# Services whose actions have another name.
ACTIONS = {"sagemaker-runtime": "sagemaker", "service-quotas": "servicequotas"}


def calls() -> set[tuple[str, str]]:
    text = "\n".join(path.read_text() for path in ROOM.glob("*.py"))
    return set(re.findall(r'\.(?:call|pages)\(\s*"([\w-]+)",\s*"(\w+)"', text))


def test_every_call_is_allowed_and_nothing_else_is() -> None:
    needed = {
        S3.get(operation, f"s3:{operation}") if service == "s3" else f"{ACTIONS.get(service, service)}:{operation}"
        for service, operation in calls()
    }
    allowed: set[str] = set()
    for statement in json.loads((ROOM / "policy.json").read_text())["Statement"]:
        actions = statement["Action"]
        allowed |= {actions} if isinstance(actions, str) else set(actions)
    assert needed - allowed == ALWAYS
    assert allowed - needed == WITH_OTHERS


def test_no_call_goes_round_the_door() -> None:
    source = Path(finepoint.__file__).parent
    outside = [
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if re.search(r"^\s*(import|from) (boto3|botocore)", path.read_text(), re.MULTILINE)
    ]
    assert {Path(name).parent.as_posix() for name in outside} == {"engines/sagemaker", "engines/rehearsal"}
    assert [path.name for path in ROOM.glob("*.py") if ".client(" in path.read_text()] == ["cloud.py"]


def test_the_document_has_the_policy() -> None:
    blocks = re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert json.loads((ROOM / "policy.json").read_text()) in [json.loads(block) for block in blocks]
