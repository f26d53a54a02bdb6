"""Ansible's side of reading an inventory: its own loader, with jinja and vault values resolved.

Places (file and line) come from Ansible's origin tags, so they name the file that really defines a value,
whichever of hosts.yml, group_vars and host_vars that is. Processor time, measured with ansible-core 2.19:
0.25 s to import Ansible, 0.5 s to read and validate 200 hosts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from vi_ops.errors import SpecError
from vi_ops.share import share_path
from vi_ops.specs.check import KeyPath, SpecFinding
from vi_ops.specs.host_vars import SSH_VARS, HostVars, Kind, Place

HOSTS_FILE: Final = "hosts.yml"
_GROUPS: Final[Mapping[str, Kind]] = {"nodes": "node", "guests": "vm"}


def read_hosts(folder: Path, findings: list[SpecFinding]) -> list[HostVars]:
    """The hosts of the two groups, in the inventory's order; what cannot be resolved becomes a finding.

    Raises SpecError where Ansible cannot read the folder at all, with the place where it knows one.
    """
    with _ansible_settings():
        return _read_hosts(folder, findings)


@contextmanager
def _ansible_settings() -> Iterator[None]:
    """What Ansible only warns about is an error here: a key written twice, a source that is no inventory."""
    wanted = {"ANSIBLE_DUPLICATE_YAML_DICT_KEY": "error", "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _read_hosts(folder: Path, findings: list[SpecFinding]) -> list[HostVars]:
    from ansible.errors import AnsibleError

    try:
        loader = _loader(folder)
        for file in _yaml_files(folder):  # first, because the inventory plugins bury a syntax error
            content = loader.load_from_file(str(file), unsafe=True, trusted_as_template=True)
            if not isinstance(content, Mapping | None):
                place = _origin(content, folder) or file.relative_to(folder)
                raise SpecError("inventory-yaml", f"{place}: expected a mapping of variables at the top")
        from ansible.inventory.manager import InventoryManager
        from ansible.vars.hostvars import HostVars as AllHostVars
        from ansible.vars.manager import VariableManager

        inventory = InventoryManager(loader=loader, sources=[str(folder)])
        variables = VariableManager(loader=loader, inventory=inventory)
        AllHostVars(inventory, variables, loader)  # gives templates `hostvars`
        read: list[HostVars] = []
        for group, kind in _GROUPS.items():
            for host in inventory.groups[group].get_hosts() if group in inventory.groups else ():
                raw = variables.get_vars(host=host)
                read.append(_Resolver(folder, loader, host.name, kind, raw, findings).host_vars())
        return read
    except AnsibleError as error:
        raise _explain(error, folder) from error


def _loader(folder: Path) -> Any:
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader
    from ansible.utils.collection_loader import AnsibleCollectionConfig

    if AnsibleCollectionConfig.collection_finder is None:  # once for each process, as its own commands do
        init_plugin_loader()
    loader = DataLoader()
    loader.set_basedir(str(share_path("playbooks")))  # relative lookups: as when our playbooks run
    _set_vault_secrets(folder, loader)
    return loader


def _yaml_files(folder: Path) -> list[Path]:
    files = [folder / HOSTS_FILE]
    for name in ("group_vars", "host_vars"):
        files += sorted(
            file for file in (folder / name).rglob("*") if file.suffix in (".yml", ".yaml", ".json")
        )
    return [file for file in files if file.is_file()]


def _set_vault_secrets(folder: Path, loader: Any) -> None:
    """Give Ansible the vault passwords of its own settings, where a file of the folder has vault content."""
    if not any(b"$ANSIBLE_VAULT" in file.read_bytes() for file in _yaml_files(folder)):
        return
    from ansible import constants as ansible_constants
    from ansible.parsing.vault import VaultSecretsContext, get_file_vault_secret

    settings = ansible_constants.config
    sources = [entry.split("@", 1) for entry in settings.get_config_value("DEFAULT_VAULT_IDENTITY_LIST")]
    if single := settings.get_config_value("DEFAULT_VAULT_PASSWORD_FILE"):
        sources.append(["default", single])
    secrets = []
    for *label, file in sources:
        if file in ("prompt", "prompt_ask_vault_pass"):
            continue  # nobody may be there to answer, and ansible-runner would ask again
        secret = get_file_vault_secret(filename=file, vault_id=label[0] if label else None, loader=loader)
        secret.load()
        secrets.append((label[0] if label else "default", secret))
    loader.set_vault_secrets(secrets)
    if context := VaultSecretsContext.current(optional=True):  # once for each process, says Ansible
        context.secrets = secrets
    else:
        VaultSecretsContext.initialize(VaultSecretsContext(secrets))


class _Resolver:
    """Resolves the vars of one host: every template and vault value becomes plain Python, with its place."""

    def __init__(
        self,
        folder: Path,
        loader: Any,
        name: str,
        kind: Kind,
        raw: Mapping[str, Any],
        findings: list[SpecFinding],
    ) -> None:
        from ansible.template import Templar

        self._templar = Templar(loader=loader, variables=dict(raw))
        self._folder, self._name, self._kind, self._raw = folder, name, kind, raw
        self._findings = findings
        self._places: dict[KeyPath, Place] = {}
        self._hidden: set[KeyPath] = set()

    def host_vars(self) -> HostVars:
        """The vars that describe the host; of all others only the names."""
        values: dict[str, Any] = dict.fromkeys(self._raw)
        for name in (self._kind, *SSH_VARS.values()):
            key = next((key for key in self._raw if key == name), None)
            if key is not None:
                self._note(key, (name,))
                values[name] = self._resolve(self._raw[name], (name,))
        return HostVars(self._name, self._kind, values, self._places, frozenset(self._hidden))

    def _note(self, value: object, path: KeyPath) -> None:
        if place := _origin(value, self._folder):
            self._places.setdefault(path, place)

    def _note_inside(self, value: object, path: KeyPath) -> None:
        """What a template gave keeps the places where its parts were written."""
        self._note(value, path)
        if isinstance(value, Mapping):
            for key, item in value.items():
                self._note(key, (*path, str(key)))
                self._note_inside(item, (*path, str(key)))
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            for at, item in enumerate(value):
                self._note_inside(item, (*path, at))

    def _resolve(self, raw: object, path: KeyPath) -> object:
        self._note(raw, path)
        if isinstance(raw, Mapping):
            for key in raw:
                self._note(key, (*path, str(key)))
            return {str(key): self._resolve(item, (*path, str(key))) for key, item in raw.items()}
        if isinstance(raw, Sequence) and not isinstance(raw, str | bytes):
            return [self._resolve(item, (*path, at)) for at, item in enumerate(raw)]
        return self._resolve_scalar(raw, path)

    def _resolve_scalar(self, raw: object, path: KeyPath) -> object:
        from ansible.errors import AnsibleError
        from ansible.parsing.vault import EncryptedString

        is_vault = isinstance(raw, EncryptedString)
        if is_vault:
            self._hidden.add(path)
        elif not isinstance(raw, str) or "{" not in raw:
            return _plain(raw)
        try:
            value = self._templar.template(raw)
            self._note_inside(value, path)
            return _plain(value)
        except AnsibleError as error:
            code = "inventory-vault" if is_vault else "inventory-template"
            hint = _VAULT_HINT if is_vault else None
            self._findings.append(SpecFinding(code, self._name, path, _first_line(error), hint))
            return None


_VAULT_HINT: Final = "set ANSIBLE_VAULT_PASSWORD_FILE to the file with the right password"


def _origin(value: object, folder: Path) -> Place | None:
    """Where Ansible read a value: its origin tag (internal to ansible-core, the same in 2.19 to 2.21)."""
    from ansible._internal._datatag._tags import Origin

    origin = value if isinstance(value, Origin) else Origin.get_tag(value)
    if origin is None or origin.path is None:
        return None
    return Place(_inside(origin.path, folder), origin.line_num)


@cache
def _inside(path: str, folder: Path) -> str:
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path


def _plain(value: object) -> object:
    """A value without Ansible's tags, so that nothing behind this door knows of them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    return float(value) if isinstance(value, float) else int(value) if isinstance(value, int) else str(value)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _explain(error: Exception, folder: Path) -> SpecError:
    """What stopped Ansible before any host could be read, with the place where it knows one."""
    place = _origin(getattr(error, "obj", None), folder)
    cause = _first_line(error)
    if "local directories" in cause:
        return SpecError(
            "inventory-ansible",
            f"Ansible cannot start: {cause}",
            hint="it keeps temporary files in ~/.ansible: make HOME writable, or set ANSIBLE_LOCAL_TEMP",
        )
    if "vault" in cause.lower() or "decrypt" in cause.lower():
        return SpecError("inventory-vault", f"{place or folder}: {cause}", hint=_VAULT_HINT)
    return SpecError("inventory-yaml", f"{place or folder}: {cause}")
