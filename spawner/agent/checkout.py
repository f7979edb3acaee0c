"""The repository: exactly one commit, through the relay, once.

For: the agent; the commands that Git is given, and the configuration that sends it to the relay.
Promises: a repository that was finished before is never touched again; one that was left half done is done anew;
the credential stands in one private file and in no URL, argument or variable.
Must not know: who owns the project, which token the relay adds.
Source: git-config(1) `http.<url>.extraHeader` and `url.<base>.insteadOf`, Git 2.30 or newer.
"""

from spawner.agent.plan import CheckoutPlan, Plan

ALREADY_THERE = 10  # exit code of `SCRIPT`: reopened as it was left
REFUSED = 11  # exit code of `SCRIPT`: asking again would not help
AWAY = 12  # exit code of `SCRIPT`: nobody answered, or somebody said "later"

# A depth of one commit: the size of a history never delays a start. `origin/<branch>` is set to the commit that is
# known to lie on it; the next `git fetch` moves it on, and the shallow commit connects.
SCRIPT = r"""
set -eu
done_mark="$SLIPWAY_PRIVATE/checkout-done"
cd "$SLIPWAY_CHECKOUT"
command -v git >/dev/null || { echo "there is no Git here."; exit 11; }
if [ -e "$done_mark" ] && [ -e .git ]; then exit 10; fi
rm -rf .git  # half done: a Git that was killed leaves locks behind
git init -q --template= .
git config remote.origin.url "$SLIPWAY_ORIGIN"
git config remote.origin.fetch '+refs/heads/*:refs/remotes/origin/*'
if ! git fetch -q --depth 1 --no-tags origin "$SLIPWAY_SHA" 2>"$TMPDIR/fetch-error"; then
    cat "$TMPDIR/fetch-error" >&2
    # A 503 comes with a sentence too ("remote: ..."), so that line says nothing.
    refused='returned error: (400|403|404)|^fatal: repository .* not found|not our ref|remote error'
    if grep -qE "$refused" "$TMPDIR/fetch-error"; then exit 11; fi
    away='returned error: 5|[Ff]ailed to connect|[Cc]ould.?n.t connect|[Cc]onnection (refused|reset|timed out|was)'
    broken='Empty reply|early EOF|unexpected disconnect|hung up|RPC failed|fatal: expected |pack failed|transfer closed'
    if grep -qE "$away|$broken" "$TMPDIR/fetch-error"; then exit 12; fi
    exit 1
fi
if [ "$SLIPWAY_IS_TAG" = 1 ]; then
    git update-ref "refs/tags/$SLIPWAY_BRANCH" "$SLIPWAY_SHA"
    git checkout -q --force --detach "$SLIPWAY_SHA"
    echo "HEAD is detached at the tag $SLIPWAY_BRANCH: make a branch before you commit."
else
    git update-ref "refs/remotes/origin/$SLIPWAY_BRANCH" "$SLIPWAY_SHA"
    git checkout -q --force -B "$SLIPWAY_BRANCH" "$SLIPWAY_SHA"
    git config "branch.$SLIPWAY_BRANCH.remote" origin
    git config "branch.$SLIPWAY_BRANCH.merge" "refs/heads/$SLIPWAY_BRANCH"
fi
if [ -f .gitmodules ]; then
    # Each by itself: Git checks none of them out when one cannot be fetched.
    git -c core.quotePath=false ls-files --stage | grep '^160000' | cut -f 2- | while IFS= read -r path; do
        git submodule update -q --init --recursive --depth 1 -- "$path" </dev/null \
            || echo "The submodule $path could not be fetched; a session reads public ones only."
    done
fi
if [ "$SLIPWAY_LFS" = 1 ]; then
    if git lfs version >/dev/null 2>&1; then
        git lfs install --local >/dev/null && git lfs pull || echo "Some LFS files could not be fetched."
    else
        echo "git-lfs is not installed on this machine: LFS files stay pointers."
    fi
fi
: >"$done_mark"
"""


def git_configuration(checkout: CheckoutPlan, credential: str) -> str:
    """Return the configuration that sends Git to the relay with the session's credential."""
    lines = [
        f"[http {_quoted(checkout.relay_prefix)}]",
        f"\textraHeader = {_quoted(f'Authorization: Bearer {credential}')}",
        "\tfollowRedirects = false",
    ]
    for to, origin in checkout.rewrites:
        lines += [f"[url {_quoted(to)}]", f"\tinsteadOf = {_quoted(origin)}"]
    lines += [
        "[user]",
        f"\tname = {_quoted(checkout.author_name)}",
        f"\temail = {_quoted(checkout.author_email)}",
        "[credential]",
        '\thelper = ""',
        "[push]",
        "\tdefault = simple",
        "[advice]",
        "\tdetachedHead = false",
        "[init]",
        "\tdefaultBranch = main",
    ]
    return "\n".join(lines) + "\n"


def script_variables(plan: Plan) -> dict[str, str]:
    """Return what `SCRIPT` reads; variables, because arguments are shown to everyone on the machine."""
    checkout = plan.checkout
    return {
        "SLIPWAY_PRIVATE": str(plan.private),
        "SLIPWAY_CHECKOUT": str(plan.checkout_path),
        "SLIPWAY_ORIGIN": checkout.origin_url,
        "SLIPWAY_SHA": checkout.sha,
        "SLIPWAY_BRANCH": checkout.branch,
        "SLIPWAY_IS_TAG": "1" if checkout.is_tag else "0",
        "SLIPWAY_LFS": "1" if checkout.fetch_lfs else "0",
    }


def _quoted(text: str) -> str:
    cleaned = "".join(c for c in text if c.isprintable())
    return '"' + cleaned.replace("\\", "\\\\").replace('"', '\\"') + '"'
