#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Make a small Debian mirror, for checks/mirror.

fake_mirror.py DIR SUITE [--date DATE --until DATE] [KIND=VERSION]...

The suite has linux-source-X.Y (deb) and the source package linux (src) in these
versions, each with a Linux of a few files, and kernels, linux-image-VERSION-amd64: as one
package (image), or as one that depends on others (split). It is signed by the key of
GNUPGHOME.
"""
import argparse
import email.utils
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time


def linux(version):
    """The files of a Linux of this version."""
    upstream = re.sub(r"[-~].*", "", version)
    parts = (upstream.split(".") + ["0"])[:3]
    makefile = "".join(
        f"{name} = {value}\n"
        for name, value in zip(("VERSION", "PATCHLEVEL", "SUBLEVEL"), parts))
    return {"Makefile": makefile + "EXTRAVERSION =\n", "COPYING": "GPL-2.0\n",
            # So that it does not fit on a small disk.
            "random": os.urandom(1 << 20).hex()}


def tarball(name, top, files):
    with tarfile.open(name, "w:xz", preset=0) as tar:
        for path, content in files.items():
            content = content.encode()
            info = tarfile.TarInfo(f"{top}/{path}")
            info.size = len(content)
            info.mtime = 1
            tar.addfile(info, io.BytesIO(content))


def hashes(path):
    with open(path, "rb") as f:
        content = f.read()
    return len(content), hashlib.sha256(content).hexdigest(), hashlib.md5(content).hexdigest()


def binary(root, version):
    """Put the package into the pool, and tell its paragraph of Packages."""
    line = ".".join(re.match(r"(\d+)\.(\d+)", version).groups())
    package = f"linux-source-{line}"
    with tempfile.TemporaryDirectory() as tmp:
        os.makedirs(f"{tmp}/usr/src")
        tarball(f"{tmp}/usr/src/{package}.tar.xz", package, linux(version))
        return pack(root, tmp, package, version)


def pack(root, tree, package, version, depends=()):
    """Make a package of the files in the tree."""
    os.mkdir(f"{tree}/DEBIAN")
    control = (f"Package: {package}\nVersion: {version}\nArchitecture: all\n"
               + (f"Depends: {', '.join(depends)}\n" if depends else "")
               + "Maintainer: nobody <nobody@localhost>\nDescription: Linux\n")
    with open(f"{tree}/DEBIAN/control", "w", encoding="utf-8") as f:
        f.write(control)
    name = f"pool/{package}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", tree, f"{root}/{name}"], check=True,
                   stdout=subprocess.DEVNULL)
    size, sha256, md5 = hashes(f"{root}/{name}")
    return f"{control}Filename: {name}\nSize: {size}\nSHA256: {sha256}\nMD5sum: {md5}\n"


def images(root, version, split):
    """Likewise, of the packages of a kernel."""
    abi = re.sub(r"-.*", "", version) + "+deb13-amd64"
    kernel = f"usr/lib/modules/{abi}/vmlinuz" if split else f"boot/vmlinuz-{abi}"
    module = f"usr/lib/modules/{abi}/kernel/fs/9p/9p.ko"
    parts = {f"linux-image-{abi}": [] if split else [kernel, module]}
    if split:
        parts |= {f"linux-binary-{abi}": [kernel], f"linux-modules-{abi}": [module]}
    paragraphs = []
    for package, files in parts.items():
        depends = ["kmod"]
        if not files:
            depends += [f"{other} (= {version})" for other in parts if other != package]
        with tempfile.TemporaryDirectory() as tmp:
            for file in files:
                os.makedirs(f"{tmp}/{os.path.dirname(file)}", exist_ok=True)
                with open(f"{tmp}/{file}", "w", encoding="utf-8") as f:
                    f.write(f"{version}\n")
            paragraphs.append(pack(root, tmp, package, version, depends))
    return paragraphs


def source(root, version):
    """Likewise, of Sources."""
    upstream = version.rsplit("-", 1)[0]
    with tempfile.TemporaryDirectory() as tmp:
        tree = f"{tmp}/linux-{upstream}"
        tarball(f"{tmp}/linux_{upstream}.orig.tar.xz", f"linux-{upstream}", linux(version))
        subprocess.run(["tar", "-C", tmp, "-xf", f"{tmp}/linux_{upstream}.orig.tar.xz"], check=True)
        os.makedirs(f"{tree}/debian/source")
        for path, content in {
                "debian/source/format": "3.0 (quilt)\n",
                "debian/control": "Source: linux\nMaintainer: nobody <nobody@localhost>\n\n"
                                  "Package: linux\nArchitecture: all\nDescription: Linux\n",
                "debian/changelog": f"linux ({version}) sid; urgency=low\n\n  * Nothing.\n\n"
                                    " -- nobody <nobody@localhost>  "
                                    "Sat, 28 Nov 2026 00:00:00 +0000\n"}.items():
            with open(f"{tree}/{path}", "w", encoding="utf-8") as f:
                f.write(content)
        subprocess.run(["dpkg-source", "-b", tree], cwd=tmp, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        files = [f for f in os.listdir(tmp) if os.path.isfile(f"{tmp}/{f}")]
        lines = {"Files": "", "Checksums-Sha256": ""}
        for name in files:
            shutil.copy(f"{tmp}/{name}", f"{root}/pool/{name}")
            size, sha256, md5 = hashes(f"{root}/pool/{name}")
            lines["Files"] += f"\n {md5} {size} {name}"
            lines["Checksums-Sha256"] += f"\n {sha256} {size} {name}"
    return (f"Package: linux\nFormat: 3.0 (quilt)\nBinary: linux\nArchitecture: all\n"
            f"Version: {version}\nMaintainer: nobody <nobody@localhost>\nDirectory: pool\n"
            f"Files:{lines['Files']}\nChecksums-Sha256:{lines['Checksums-Sha256']}\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("suite")
    parser.add_argument("content", nargs="*")
    parser.add_argument("--until", type=int, help="Valid-Until, in seconds from now")
    args = parser.parse_args()
    os.makedirs(f"{args.root}/pool", exist_ok=True)
    packages, sources = [], []
    for item in args.content:
        kind, version = item.split("=")
        if kind == "deb":
            packages.append(binary(args.root, version))
        elif kind in ("image", "split"):
            packages += images(args.root, version, kind == "split")
        else:
            sources.append(source(args.root, version))
    dist = f"{args.root}/dists/{args.suite}"
    entries = ""
    for name, paragraphs in (("main/binary-amd64/Packages", packages),
                             ("main/source/Sources", sources)):
        os.makedirs(os.path.dirname(f"{dist}/{name}"), exist_ok=True)
        with open(f"{dist}/{name}", "w", encoding="utf-8") as f:
            f.write("\n".join(paragraphs))
        size, sha256, _ = hashes(f"{dist}/{name}")
        entries += f" {sha256} {size} {name}\n"
    now = time.time()
    release = (f"Origin: Debian\nLabel: Debian\nSuite: {args.suite}\nCodename: {args.suite}\n"
               f"Date: {email.utils.formatdate(now - 7200, usegmt=True)}\n"
               + (f"Valid-Until: {email.utils.formatdate(now + args.until, usegmt=True)}\n"
                  if args.until is not None else "")
               + f"Architectures: amd64 all\nComponents: main\nSHA256:\n{entries}")
    signed = subprocess.run(["gpg", "--batch", "--yes", "--clearsign"], input=release.encode(),
                            stdout=subprocess.PIPE, check=True).stdout
    with open(f"{dist}/InRelease", "wb") as f:
        f.write(signed)


main()
