# An image for training jobs in SageMaker: docker build -f docker/training.Dockerfile -t finepoint-training .
# Push it to ECR and give its name: finepoint run photos/ --engine sagemaker --cloud image=REPOSITORY:TAG
# SageMaker starts it with the one word `train`, which the official toolkit brings; it runs what the job uploaded.
FROM python:3.12-slim AS build
# The toolkit is built from source, in C.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc=4:* libc6-dev=2.* \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.6.0 torchvision==0.21.0 \
 && /venv/bin/pip install --no-cache-dir setuptools==75.8.0 sagemaker-training==5.1.4 \
 && /venv/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
# SageMaker mounts /opt/ml and runs its containers as root.
# hadolint ignore=DL3002,DL3066
USER root
STOPSIGNAL SIGTERM
CMD ["train"]
