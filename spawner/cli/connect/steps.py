"""The steps of connecting a GitLab and of undoing it, in order, each looked at before anything is changed.

For: the commands `connect` and `disconnect`. Promises: running them again changes nothing more; a dry run asks and
writes nothing; a right that is lacking is said with what it is wanted for, and the steps that can be done are done;
what somebody else has set up is kept, and never counted as ours.
Must not know: how a step is shown.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from builder.starter import CI_FILE, CI_TEXT, REQUIREMENTS_FILE, REQUIREMENTS_TEXT
from builder.transport import is_loopback
from spawner.cli.connect.folder import SettingsFolder
from spawner.cli.connect.ledger import Ledger, Thing, ThingKind
from spawner.cli.connect.proposal import with_build_job
from spawner.errors import Forbidden, NotFound, PermanentError
from spawner.gitlab.administration import Administration, Application, Change, Place, PlaceKind
from spawner.ports import AccessLevel

APPLICATION_NAME = "Slipway"
BRANCH = "slipway/add-image-build"
KEPT_TAGS = "^env-.*"  # images.md §1: the tags by which environments are found again
_HOOK_EVENTS = ("push_events", "tag_push_events", "merge_requests_events", "job_events", "pipeline_events")
_TITLE = "Build an image for every commit"
_WHY = """\
This adds the CI job `{job}`, after which a commit can be launched in exactly the environment that it declares: {url}

The job builds an environment once. A commit that changes no requirement is done in seconds, because its image is there.
"""


class Outcome(StrEnum):
    """How a step ended."""

    KEPT = "kept"
    MADE = "made"
    CHANGED = "changed"
    WOULD = "would"
    REMOVED = "removed"
    LACKS = "lacks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of what was done: the thing, how it ended, a sentence, and a remedy where something lacks."""

    thing: str
    outcome: Outcome
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be connected. `scopes` is what a sign-in asks for."""

    public_url: str
    scopes: tuple[str, ...]
    build_job: str
    projects: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    template_project: str | None = None
    with_template: bool = True
    is_dry: bool = False

    @property
    def callback_url(self) -> str:
        """Where GitLab sends people back to after a sign-in."""
        return f"{self.public_url}/login/callback"

    @property
    def hook(self) -> dict[str, object]:
        """A hook's fields that can be read back."""
        return {"url": f"{self.public_url}/hooks/gitlab", **dict.fromkeys(_HOOK_EVENTS, True)}

    @property
    def badge(self) -> dict[str, object]:
        """The launch badge; GitLab fills the placeholders in for each project."""
        return {
            "name": APPLICATION_NAME,
            "link_url": f"{self.public_url}/launch/%{{project_path}}/-/tree/%{{default_branch}}",
            "image_url": f"{self.public_url}/badge/%{{project_path}}.svg",
        }


class Connecting:
    """Connects one GitLab as one operator; keeps what it made in the ledger."""

    def __init__(
        self, site: Administration, wish: Wish, folder: SettingsFolder, ledger: Ledger, *, ca_file: Path | None = None
    ) -> None:
        self._site = site
        self._wish = wish
        self._folder = folder
        self._ledger = ledger
        self._ca_file = ca_file

    def connect(self) -> Iterator[Step]:
        """Do every step that this token may do; yields each as it is done."""
        yield from self._operator()
        yield from self._guarded("application", self._application)
        yield self._settings()
        for path in self._wish.groups:
            yield from self._guarded(path, partial(self._group, path))
        for path in self._wish.projects:
            yield from self._guarded(path, partial(self._project, path))
        if self._wish.template_project is not None:
            yield from self._guarded(self._wish.template_project, self._template_project)

    def _guarded(self, thing: str, steps: Callable[[], Iterator[Step]]) -> Iterator[Step]:
        """Turn what one step may not do, or cannot find, into its line; the others go on."""
        try:
            yield from steps()
        except NotFound:
            yield Step(
                thing=thing,
                outcome=Outcome.LACKS,
                message="does not exist, or this token may not see it",
                remedy="Compare the path with GitLab's own address, or use a token of somebody who is a member.",
            )
        except PermanentError as error:
            yield Step(thing=thing, outcome=Outcome.LACKS, message=error.message, remedy=error.remedy)

    def _operator(self) -> Iterator[Step]:
        version = self._site.version()
        yield Step(thing="gitlab", outcome=Outcome.KEPT, message=f"{self._site.url} is GitLab {version}")
        name = self._site.operator().get("username")
        scopes = self._site.scopes()
        if "api" in scopes:
            yield Step(thing="token", outcome=Outcome.KEPT, message=f"of {name}, may api")
            return
        yield Step(
            thing="token",
            outcome=Outcome.LACKS,
            message=f"of {name} may {', '.join(sorted(scopes))}; setting up hooks, badges and merge requests wants api",
            remedy="Make a token with the scope api, good for a day, and name its file with --token-file.",
        )

    # ---------------------------------------------------------------- sign-in

    def _application(self) -> Iterator[Step]:
        wish = self._wish
        thing = Thing(kind=ThingKind.APPLICATION, address="/applications", mark=wish.callback_url)
        if self._folder.settings().get("SPAWNER_GITLAB__CLIENT_ID") and self._folder.has("client-secret"):
            yield self._kept("application", "its id and secret are in the settings")
            return
        try:
            found = next((one for one in self._site.applications() if one.callback_url == wish.callback_url), None)
        except Forbidden:
            yield self._application_by_hand()
            return
        if wish.is_dry:
            says = "be given a new secret, as its secret is not kept here" if found else "be registered for sign-in"
            yield Step(thing="application", outcome=Outcome.WOULD, message=says)
            return
        if found is None:
            self._ledger.begin(thing)
            made = self._site.create_application(APPLICATION_NAME, wish.callback_url, wish.scopes)
            self._ledger.complete(thing, made.id)
        else:
            made = self._site.renew_secret(found)
        yield self._application_kept(made, is_new=found is None)

    def _application_kept(self, application: Application, *, is_new: bool) -> Step:
        self._folder.keep("client-secret", application.secret or "")
        self._folder.add({"SPAWNER_GITLAB__CLIENT_ID": application.client_id})
        message = "registered for sign-in" if is_new else "was there; its secret is renewed and kept"
        return Step(
            thing="application",
            outcome=Outcome.MADE if is_new else Outcome.CHANGED,
            message=f"{message}: people sign in",
        )

    def _application_by_hand(self) -> Step:
        return Step(
            thing="application",
            outcome=Outcome.LACKS,
            message="only an administrator's token registers one; without it nobody signs in by browser",
            remedy=f"In {self._site.url}/-/user_settings/applications add one: redirect URI {self._wish.callback_url}, "
            f"confidential, scopes {' '.join(self._wish.scopes)}. Put its id into {self._folder.environment} as "
            f"SPAWNER_GITLAB__CLIENT_ID and its secret into {self._folder.path / 'client-secret'}.",
        )

    def _settings(self) -> Step:
        for name in ("keys", "hook-secret"):
            self._folder.secret(name)
        wanted = {
            "SPAWNER_HTTP__PUBLIC_URL": self._wish.public_url,
            "SPAWNER_GITLAB__URL": self._site.url,
            "SPAWNER_GITLAB__WEBHOOK_SECRET_FILE": str(self._folder.path / "hook-secret"),
            "SPAWNER_SECRETS__KEY_FILE": str(self._folder.path / "keys"),
        }
        if self._folder.has("client-secret"):
            wanted["SPAWNER_GITLAB__CLIENT_SECRET_FILE"] = str(self._folder.path / "client-secret")
        parts = urlsplit(self._wish.public_url)
        if is_loopback(parts.netloc) and parts.port:  # nothing stands in front: the spawner listens there itself
            wanted["SPAWNER_HTTP__PORT"] = str(parts.port)
        if self._ca_file is not None:
            wanted["SPAWNER_GITLAB__CA_FILE"] = str(self._ca_file.absolute())
        added, other = self._folder.add(wanted)
        if other:
            return Step(
                thing="settings",
                outcome=Outcome.LACKS,
                message=f"{self._folder.environment} says something else for {', '.join(other)}; it was left as it is",
                remedy="Correct the file, or name the same values here.",
            )
        if not added:
            return self._kept("settings", str(self._folder.environment))
        return Step(thing="settings", outcome=self._made, message=f"{', '.join(added)} in {self._folder.environment}")

    # ---------------------------------------------------------------- groups and projects

    def _group(self, path: str) -> Iterator[Step]:
        group = self._site.place(PlaceKind.GROUP, path)
        yield from self._guarded(path, partial(self._badge, group, AccessLevel.OWNER))
        try:
            yield from self._hook(group, AccessLevel.OWNER)
            has_hook = True
        except (NotFound, Forbidden):  # group hooks are of paid plans
            yield self._kept(path, "has no hooks of groups; each project gets its own")
            has_hook = False
        for project in self._site.projects_of(group):
            yield from self._guarded(project, partial(self._member, project, has_hook=has_hook))

    def _member(self, path: str, *, has_hook: bool) -> Iterator[Step]:
        """Give a group's project what the group could not give it."""
        project = self._site.place(PlaceKind.PROJECT, path)
        if not has_hook:
            yield from self._hook(project, AccessLevel.MAINTAINER)
        yield from self._build_job(project)

    def _project(self, path: str) -> Iterator[Step]:
        project = self._site.place(PlaceKind.PROJECT, path)
        yield from self._hook(project, AccessLevel.MAINTAINER)
        yield from self._badge(project, AccessLevel.MAINTAINER)
        yield from self._build_job(project)

    def _hook(self, place: Place, wanted_level: int) -> Iterator[Step]:
        yield from self._hung(place, "hooks", self._wish.hook, "url", wanted_level, "the next launch starts at once")

    def _badge(self, place: Place, wanted_level: int) -> Iterator[Step]:
        yield from self._hung(place, "badges", self._wish.badge, "link_url", wanted_level, "people see the button")

    def _hung(
        self, place: Place, things: str, fields: Mapping[str, object], mark: str, wanted_level: int, why: str
    ) -> Iterator[Step]:
        """Hang a hook or a badge on a project or group, or mend the one that is there."""
        name = things.removesuffix("s")
        if place.level < wanted_level and not self._site.operator().get("is_admin"):
            yield self._lacks_level(place, name, wanted_level, why)
            return
        thing = Thing(kind=ThingKind(name), address=place.address, mark=str(fields[mark]))
        rows = self._site.hooks(place) if things == "hooks" else self._site.badges(place)
        found = next((row for row in rows if row.get(mark) == fields[mark]), None)
        secret = {"token": self._folder.secret("hook-secret")} if things == "hooks" else {}
        if found is None:
            yield self._make(place, thing, things, {**fields, **secret})
        elif any(found.get(field) != value for field, value in fields.items()):
            yield self._mend(place, found, things, {**fields, **secret})
        else:
            yield self._kept(place.path, f"has the {name} already")

    def _make(self, place: Place, thing: Thing, things: str, body: Mapping[str, object]) -> Step:
        if not self._wish.is_dry:
            self._ledger.begin(thing)
            self._ledger.complete(thing, self._site.add(place, things, body))
        return Step(thing=place.path, outcome=self._made, message=f"a {thing.kind} to {thing.mark}")

    def _mend(self, place: Place, found: Mapping[str, object], things: str, body: Mapping[str, object]) -> Step:
        name = things.removesuffix("s")
        if self._wish.is_dry:
            return Step(thing=place.path, outcome=Outcome.WOULD, message=f"set its {name} right")
        self._site.change(place, things, int(str(found["id"])), body)
        return Step(thing=place.path, outcome=Outcome.CHANGED, message=f"its {name} is set right")

    def _lacks_level(self, place: Place, name: str, wanted_level: int, why: str) -> Step:
        role = {AccessLevel.OWNER: "an owner", AccessLevel.MAINTAINER: "a maintainer"}[wanted_level]
        return Step(
            thing=place.path,
            outcome=Outcome.LACKS,
            message=f"a {name} wants {role} of it, which this token's owner is not; with it {why}",
            remedy=f"Ask {role} of {place.path} to run this, or to make the token.",
        )

    # ---------------------------------------------------------------- the build job

    def _build_job(self, project: Place) -> Iterator[Step]:
        if not project.has_registry:
            yield Step(
                thing=project.path,
                outcome=Outcome.LACKS,
                message="its container registry is off; images are kept there",
                remedy="Switch it on: Settings > General > Visibility, project features.",
            )
        elif not self._wish.is_dry and self._site.keep_tags(project, KEPT_TAGS):
            yield Step(thing=project.path, outcome=Outcome.CHANGED, message=f"its clean-up keeps tags {KEPT_TAGS}")
        if not self._wish.with_template:
            return
        if project.is_empty or project.default_branch is None:
            yield self._kept(project.path, "is empty: `builder init`, commit and push bring the build job")
            return
        existing = self._site.file(project, CI_FILE)
        content = with_build_job(existing, build_job=self._wish.build_job)
        if content is None:
            yield self._kept(project.path, f"has the job {self._wish.build_job} already")
        elif self._wish.is_dry:
            yield Step(
                thing=project.path, outcome=Outcome.WOULD, message=f"a merge request that adds the job to {CI_FILE}"
            )
        else:
            yield self._proposed(project, project.default_branch, content, is_new_file=existing is None)

    def _proposed(self, project: Place, default_branch: str, content: str, *, is_new_file: bool) -> Step:
        change = Change(
            branch=BRANCH,
            start_branch=default_branch,
            title=_TITLE,
            description=_WHY.format(job=self._wish.build_job, url=self._wish.public_url),
            path=CI_FILE,
            content=content,
            is_new_file=is_new_file,
        )
        thing = Thing(kind=ThingKind.MERGE_REQUEST, address=project.address, mark=BRANCH)
        self._ledger.begin(thing)
        opened = self._site.propose(project, change)
        self._ledger.complete(thing, int(str(opened["iid"])))
        return Step(thing=project.path, outcome=Outcome.MADE, message=f"merge request {opened.get('web_url')}")

    def _template_project(self) -> Iterator[Step]:
        path = self._wish.template_project or ""
        try:
            found = self._site.place(PlaceKind.PROJECT, path)
        except NotFound:
            found = None
        if found is not None and not found.is_empty:
            yield self._kept(path, "is there and not empty")
            return
        if self._wish.is_dry:
            yield Step(thing=path, outcome=Outcome.WOULD, message="a project of what `builder init` writes")
            return
        project = found or self._created(path)
        branch = project.default_branch or "main"
        for name, text in {CI_FILE: CI_TEXT, REQUIREMENTS_FILE: REQUIREMENTS_TEXT}.items():
            change = Change(
                branch=branch, start_branch=branch, title=f"Add {name}", description="", path=name, content=text,
                is_new_file=True,
            )  # fmt: skip
            self._site.commit(project, change)
        yield Step(thing=path, outcome=Outcome.MADE, message="a project to copy: `builder init`'s files")

    def _created(self, path: str) -> Place:
        thing = Thing(kind=ThingKind.PROJECT, address="/projects", mark=path)
        self._ledger.begin(thing)
        made = self._site.create_project(path)
        self._ledger.complete(thing, made.id)
        return made

    @property
    def _made(self) -> Outcome:
        return Outcome.WOULD if self._wish.is_dry else Outcome.MADE

    def _kept(self, thing: str, message: str) -> Step:
        return Step(thing=thing, outcome=Outcome.KEPT, message=message)
