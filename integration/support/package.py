"""Makes a wheel or a source archive of a package for the tests' index: package.py DIRECTORY DESCRIPTION.json."""

import base64
import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile

directory = sys.argv[1]
with open(sys.argv[2]) as file:
    description = json.load(file)
name, version = description["name"], description["version"]
files = {path: text.encode() for path, text in description["files"].items()}
metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
for extra in description["extras"]:
    metadata += f"Provides-Extra: {extra}\n"
for requirement in description["requires"]:
    metadata += f"Requires-Dist: {requirement}\n"
if description["setup"] is None:
    info = f"{name}-{version}.dist-info"
    files[f"{info}/METADATA"] = metadata.encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = ""
    for path, content in files.items():
        # What it says of its files need not be so.
        content = (description["claims"] or {}).get(path, content.decode()).encode()
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record += f"{path},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    made = os.path.join(directory, f"{name}-{version}-py3-none-any.whl")
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            # The same bytes whenever it is made.
            archive.writestr(zipfile.ZipInfo(path), content)
else:
    files["setup.py"] = description["setup"].encode()
    files["PKG-INFO"] = metadata.encode()
    made = os.path.join(directory, f"{name}-{version}.tar.gz")
    with tarfile.open(made, "w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
with open(made, "rb") as file:
    print(hashlib.sha256(file.read()).hexdigest())
