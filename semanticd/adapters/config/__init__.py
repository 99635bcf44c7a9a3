"""Settings: flags, environment, `.env` and a TOML file become one frozen value, or one error that names every mistake.

Plain dataclasses, because every command answers in under 0.3 s and a validation library alone takes that long to load.
"""

from semanticd.adapters.config.resolve import Effective, Loaded, effective, load_settings
from semanticd.adapters.config.schema import (
    AgentSettings,
    DistributedSettings,
    MlxSettings,
    PathSettings,
    SecuritySettings,
    ServerSettings,
    Settings,
)
from semanticd.adapters.config.sources import FileRead

__all__ = [
    "AgentSettings",
    "DistributedSettings",
    "Effective",
    "FileRead",
    "Loaded",
    "MlxSettings",
    "PathSettings",
    "SecuritySettings",
    "ServerSettings",
    "Settings",
    "effective",
    "load_settings",
]
