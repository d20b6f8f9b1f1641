"""A stand-in for SageMaker's control and runtime API on this machine, to rehearse with; the rest of AWS is moto's."""
