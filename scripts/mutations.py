#!/usr/bin/env python3
"""Makes the deliberate errors of tests/mutations.toml one by one, and expects a golden test to fail for each.

    python3 scripts/mutations.py [--only TEXT]

Works on a temporary git worktree of HEAD, so the checkout stays as it is, and builds in a target folder of its own:
cargo takes two checkouts of one workspace for the same, and would run the errors in the checkout's tests. First all
tests have to pass without an error. Prints a line of a table for each error, with
the tests that caught it. Exit 0 when every error was caught; 1 when one was not, or does not compile, or its code is no
longer there. Needs Python 3.11 or newer and nothing else; about half a minute an error on two cores.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
FAILED = re.compile(r"^test (\S+) \.\.\. FAILED$", re.MULTILINE)


def run(command, **options):
    return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def mutate(text, mutation):
    for edit in [mutation, *mutation.get("more", [])]:
        count = text.count(edit["find"])
        if count != 1:
            raise ValueError(f"{mutation['file']}: the code to change stands there {count} times, expected once: {edit['find']}")
        text = text.replace(edit["find"], edit["replace"])
    return text


def tests(tree, environment, wanted):
    """Names of the golden tests that fail; raises if they do not compile."""
    build = ["cargo", "test", "--quiet", "--locked", "-p", "tests", "--test", "golden"]
    compiled = run([*build, "--no-run"], cwd=tree, env=environment)
    if compiled.returncode != 0:
        raise ValueError(f"does not compile:\n{compiled.stdout}")
    result = run([*[part for part in build if part != "--quiet"], "--", *wanted.split()], cwd=tree, env=environment)
    failed = FAILED.findall(result.stdout)
    if result.returncode != 0 and not failed:
        raise ValueError(f"the tests did not finish:\n{result.stdout}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only errors whose name holds this text")
    options = parser.parse_args()
    mutations = [entry for entry in tomllib.loads((ROOT / "tests/mutations.toml").read_text())["mutation"]
                 if options.only in entry["name"]]
    if not mutations:
        sys.exit(f"no error's name holds {options.only!r}")

    problems = []
    with tempfile.TemporaryDirectory() as directory:
        tree = pathlib.Path(directory) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), "HEAD"], cwd=ROOT, check=True)
        try:
            (tree / ".ort").symlink_to(ROOT / ".ort")
            target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "mutations"
            environment = os.environ | {"CARGO_TARGET_DIR": str(target)}
            failed = tests(tree, environment, "")
            if failed:
                sys.exit(f"tests fail without any deliberate error: {', '.join(failed)}")
            print("| deliberate error | caught by |\n|---|---|", flush=True)
            for mutation in mutations:
                path = tree / mutation["file"]
                original = path.read_text()
                try:
                    path.write_text(mutate(original, mutation))
                    failed = tests(tree, environment, mutation["tests"])
                except ValueError as error:
                    failed = []
                    problems.append(f"{mutation['name']}: {error}")
                else:
                    if not failed:
                        problems.append(f"{mutation['name']}: no test failed")
                finally:
                    path.write_text(original)
                caught = ", ".join(f"`{name}`" for name in sorted(failed)) or "NOT CAUGHT"
                print(f"| {mutation['name']} | {caught} |", flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
