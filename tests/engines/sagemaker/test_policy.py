"""The policy in the documentation allows every call that the source makes, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import finepoint
from finepoint.engines.rehearsal import objects
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
# ... and services that use a key, or a network, for who calls, or for the job's role: by the argument that says so.
WITH_KEYS = {
    "SSEKMSKeyId": {"kms:GenerateDataKey", "kms:Decrypt"},
    "VolumeKmsKeyId": {"kms:CreateGrant", "kms:DescribeKey"},
}
FOR_THE_ROLE = {
    "SSEKMSKeyId": {"kms:GenerateDataKey", "kms:Decrypt"},
    "KmsKeyId": {"kms:Encrypt", "kms:CreateGrant", "kms:DescribeKey"},
    "VpcConfig": {
        *(f"ec2:{action}NetworkInterface{more}" for action in ("Create", "Delete") for more in ("", "Permission")),
        *(f"ec2:Describe{what}" for what in ("NetworkInterfaces", "Vpcs", "DhcpOptions", "Subnets", "SecurityGroups")),
    },
}
# What the platform does before a job's script, and the stand-in does not: pull the image, write metrics, look at logs.
OF_THE_PLATFORM = {"cloudwatch:PutMetricData", "logs:DescribeLogStreams", "s3:AbortMultipartUpload"}
OF_THE_PLATFORM |= {
    f"ecr:{operation}"
    for operation in ("GetAuthorizationToken", "BatchCheckLayerAvailability", "GetDownloadUrlForLayer", "BatchGetImage")
}
# What the stand-in's platform calls; boto3's transfers are made of these.
TRANSFERS = {"download_file": "get_object", "upload_file": "put_object", "get_paginator": "list_objects_v2"}
PREPARING = {"create_bucket", "put_public_access_block", "exceptions"}
# Services whose actions have another name.
ACTIONS = {"sagemaker-runtime": "sagemaker", "service-quotas": "servicequotas"}


def calls() -> set[tuple[str, str]]:
    return set(re.findall(r'\.(?:call|pages)\(\s*"([\w-]+)",\s*"(\w+)"', source_of_the_room()))


def source_of_the_room() -> str:
    return "\n".join(path.read_text() for path in ROOM.glob("*.py"))


def statements(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((ROOM / name).read_text())["Statement"]
    return found


def actions(name: str) -> set[str]:
    given = [statement["Action"] for statement in statements(name)]
    return {action for one in given for action in ([one] if isinstance(one, str) else one)}


def used(table: dict[str, set[str]]) -> set[str]:
    """Return the actions of a table whose argument is in the source."""
    text = source_of_the_room()
    return {action for argument, names in table.items() if f'"{argument}"' in text for action in names}


def test_every_call_is_allowed_and_nothing_else_is() -> None:
    needed = {
        S3.get(operation, f"s3:{operation}") if service == "s3" else f"{ACTIONS.get(service, service)}:{operation}"
        for service, operation in calls()
    }
    allowed = actions("policy.json")
    assert used(WITH_KEYS) == set().union(*WITH_KEYS.values())
    assert needed - allowed == ALWAYS
    assert allowed - needed == WITH_OTHERS | used(WITH_KEYS)


def test_every_call_is_seen_as_one() -> None:
    text = source_of_the_room()
    other = re.findall(r"\.(?:call|pages)\((?!\s*\"[\w-]+\",\s*\"\w+\")[^)]*", text)
    # The door itself, which hands on what it was asked for.
    assert [one for one in other if "service, operation" not in one] == []


def test_what_is_passed_on_is_bounded_to_sagemaker_the_bucket_and_the_key() -> None:
    found = {statement["Sid"]: statement for name in ("policy.json", "role.json") for statement in statements(name)}
    assert found["TheRoleOfJobs"]["Condition"]["StringEquals"] == {"iam:PassedToService": "sagemaker.amazonaws.com"}
    assert "sagemaker" in found["TheRoleOfGrowing"]["Condition"]["StringEquals"]["iam:AWSServiceName"]
    bounds = {"s3": {"arn:aws:s3:::BUCKET", "arn:aws:s3:::BUCKET/*"}, "kms": {"KEY_ARN"}, "iam": set[str]()}
    for name in ("policy.json", "role.json"):
        for statement in statements(name):
            one = statement["Action"] if isinstance(statement["Action"], str) else statement["Action"][0]
            service = one.split(":")[0]
            if service == "iam":
                assert statement["Resource"] != "*"
            elif service in bounds:
                assert statement["Resource"] in bounds[service]


def test_the_role_may_do_what_the_platform_does_for_a_job_and_nothing_else() -> None:
    platform = Path(objects.__file__).read_text()
    called = {TRANSFERS.get(name, name) for name in re.findall(r"self\._s3\.(\w+)", platform)} - PREPARING
    operations = {name.title().replace("_", "") for name in called}
    needed = {S3.get(operation, f"s3:{operation}") for operation in operations}
    logs = set(re.findall(r"self\._logs\.(\w+)", platform)) - PREPARING
    needed |= {f"logs:{name.title().replace('_', '')}" for name in logs}
    assert {"s3:GetObject", "s3:PutObject", "logs:PutLogEvents"} <= needed
    assert actions("role.json") == needed | OF_THE_PLATFORM | used(FOR_THE_ROLE)


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
    written = [json.loads(block) for block in blocks]
    assert [json.loads((ROOM / name).read_text()) in written for name in ("policy.json", "role.json")] == [True, True]
