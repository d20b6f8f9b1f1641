"""Jobs and endpoints on Amazon SageMaker; the only room that knows S3 or boto3."""
