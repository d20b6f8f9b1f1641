from setuptools import setup

setup(name="flowers-of-a-test", version="1.0", packages=["flowers"])
