"""`finepoint doctor --engine sagemaker`: is there what a job in AWS needs, and what to do where it is not."""

from __future__ import annotations

from finepoint.engines.sagemaker.cloud import Cloud, is_missing
from finepoint.engines.sagemaker.images import image_for, image_table
from finepoint.engines.sagemaker.rates import price, rate_table
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.transfer import refuse_public
from finepoint.errors import CloudError, ConfigurationError
from finepoint.findings import Finding

_TRUSTED = "sagemaker.amazonaws.com"


def diagnose(settings: SageMakerSettings, cloud: Cloud) -> list[Finding]:
    """Return what was found of credentials, role, bucket, image, quotas and rates; `error` where a job would fail.

    Args:
        settings: as a job would have them.
        cloud: the account.
    """
    found = [_credentials(settings, cloud)]
    if found[0].severity == "error":
        return found  # without credentials nothing else can be asked
    return [*found, *(check(settings, cloud) for check in (_role, _bucket, _image, _quotas, _rates))]


def _credentials(settings: SageMakerSettings, cloud: Cloud) -> Finding:
    try:
        answer = cloud.call("sts", "GetCallerIdentity")
    except (CloudError, ConfigurationError) as error:
        return Finding("Credentials", "error", str(error), {}, "aws sso login, or set AWS_PROFILE")
    account = settings.role.split(":")[4]
    if answer["Account"] != account:
        words = f"the credentials are of account {answer['Account']}, the role is of {account}"
        return Finding("Credentials", "error", words, {"arn": answer["Arn"]}, "take another profile or role")
    return Finding("Credentials", "info", f"{answer['Arn']} in {cloud.region}", {"account": answer["Account"]})


def _role(settings: SageMakerSettings, cloud: Cloud) -> Finding:
    name = settings.role.rpartition("/")[2]
    try:
        answer = cloud.call("iam", "GetRole", RoleName=name)
    except CloudError as error:
        if error.code == "NoSuchEntity":
            remedy = f"aws iam create-role --role-name {name} ...; docs/sagemaker.md has the policies"
            return Finding("Role", "error", f"there is no role {name}", {}, remedy)
        return Finding("Role", "warning", f"the role cannot be looked at: {error}", {}, "allow iam:GetRole")
    trust = str(answer["Role"].get("AssumeRolePolicyDocument", ""))
    if _TRUSTED not in trust:
        words = f"role {name} does not let {_TRUSTED} assume it"
        return Finding("Role", "error", words, {"trust": trust}, f"add {_TRUSTED} to the role's trust policy")
    return Finding("Role", "info", f"role {name} is there and trusts SageMaker")


def _bucket(settings: SageMakerSettings, cloud: Cloud) -> Finding:
    bucket = settings.bucket
    try:
        place = cloud.call("s3", "GetBucketLocation", Bucket=bucket).get("LocationConstraint") or "us-east-1"
        refuse_public(cloud, bucket)
    except CloudError as error:
        if is_missing(error):
            remedy = f"aws s3 mb s3://{bucket} --region {cloud.region}"
            return Finding("Bucket", "error", f"there is no bucket {bucket}", {}, remedy)
        return Finding("Bucket", "error", str(error), {}, "allow what the message names")
    except ConfigurationError as error:
        return Finding("Bucket", "error", str(error), {}, "block public access, as the message says")
    if place != cloud.region:
        words = f"bucket {bucket} is in {place}, jobs would run in {cloud.region}: slow, and transfer costs"
        return Finding("Bucket", "warning", words, {}, f"region={place}, or a bucket in {cloud.region}")
    return Finding("Bucket", "info", f"bucket {bucket} is there, in {place}, and not public")


def _image(settings: SageMakerSettings, cloud: Cloud) -> Finding:
    try:
        image = image_for("training", cloud.region, settings.instance_type, settings.image)
    except ConfigurationError as error:
        return Finding("Image", "error", str(error), {}, "image=ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG")
    if not settings.image:
        words = f"{image} (table of {image_table()['date']}; AWS's own repository cannot be asked)"
        return Finding("Image", "info", words, {"image": image})
    repository, _, tag = image.partition("/")[2].partition(":")
    account = image.partition(".")[0]
    try:
        cloud.call("ecr", "DescribeImages", registryId=account, repositoryName=repository, imageIds=[{"imageTag": tag}])
    except CloudError as error:
        return Finding("Image", "error", str(error), {"image": image}, "push the image, or correct its name")
    return Finding("Image", "info", f"{image} is there", {"image": image})


def _quotas(settings: SageMakerSettings, cloud: Cloud) -> Finding:
    kind = "spot training" if settings.spot else "training"
    wanted = {
        f"{settings.instance_type} for {kind} job usage": settings.instance_count,
        f"{settings.inference_instance_type} for endpoint usage": 1,
    }
    try:
        pages = cloud.pages("service-quotas", "ListServiceQuotas", ServiceCode="sagemaker")
        there = {quota["QuotaName"]: quota["Value"] for page in pages for quota in page["Quotas"]}
    except CloudError as error:
        return Finding(
            "Quotas", "warning", f"they cannot be looked at: {error}", {}, "allow servicequotas:ListServiceQuotas"
        )
    short = {name: there.get(name, 0) for name, count in wanted.items() if there.get(name, 0) < count}
    if short:
        words = ", ".join(f"{name} is {value:g}" for name, value in short.items())
        remedy = f"ask for more: console, Service Quotas, Amazon SageMaker, {next(iter(short))!r}"
        return Finding("Quotas", "error", words, {"quotas": short}, remedy)
    words = ", ".join(f"{name} {there[name]:g}" for name in wanted)
    return Finding("Quotas", "info", words, {"quotas": {name: there[name] for name in wanted}})


def _rates(settings: SageMakerSettings, cloud: Cloud) -> Finding:
    table = rate_table()
    unknown = sorted(
        {kind for kind in (settings.instance_type, settings.inference_instance_type) if price(kind, 1.0) is None}
    )
    if unknown:
        words = f"the table of rates ({table['date']}) has no {', '.join(unknown)}; --max-price cannot be kept"
        return Finding("Rates", "warning", words, {}, "give a table of your own in FINEPOINT_RATES")
    words = f"{settings.instance_type} costs {price(settings.instance_type, 1.0)} US dollars an hour"
    return Finding("Rates", "info", f"{words} ({table['region']}, {table['date']})")
