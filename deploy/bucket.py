"""Make the bucket of the store if it is not there, and prove that its keys may write, read and delete in it.

The store is STARLOOM_STORE (s3://BUCKET/…); the object store is AWS_ENDPOINT_URL, the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import os
import sys
import uuid

KEYS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def main() -> int:
    """Do so; return the exit code."""
    store = os.environ.get("STARLOOM_STORE", "")
    if not store.startswith("s3://"):
        print(f"STARLOOM_STORE is {store!r}: with the profile s3 it must be s3://BUCKET/FOLDER; set it in .env", file=sys.stderr)
        return 1
    if missing := [name for name in KEYS if not os.environ.get(name)]:
        print(f"{missing[0]} is empty: set STARLOOM_S3_ACCESS_KEY and STARLOOM_S3_SECRET_KEY in .env", file=sys.stderr)
        return 1
    bucket = store.removeprefix("s3://").split("/")[0]
    try:
        _prove(bucket)
    except OSError as error:  # s3fs translates what the server answers into these
        print(
            f"the bucket {bucket} at {os.environ['AWS_ENDPOINT_URL']} cannot be used: {error}\nare the keys in .env those of the server?",
            file=sys.stderr,
        )
        return 1
    print(f"the bucket {bucket} is there, and its keys may write, read and delete in it")
    return 0


def _prove(bucket: str) -> None:
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    if not files.exists(bucket):
        files.mkdir(bucket)
    name, data = f"{bucket}/.starloom-{uuid.uuid4().hex}", b"to be deleted at once"
    files.pipe_file(name, data)
    if files.cat_file(name) != data:
        raise OSError("what was written is not what is read")
    files.rm_file(name)


if __name__ == "__main__":
    sys.exit(main())
