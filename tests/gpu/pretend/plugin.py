"""pytest -p tests.gpu.pretend.plugin: the suite as on a machine that has a GPU, which no test may take by itself.

There, and in the programs that tests start, torch says that a GPU is there, but nothing runs on it: a test that leaves
`--device` to choose fails. Those that compare bits, or tables of two runs, have to name `--device cpu`.
"""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_FOR_EACH = '''"""Says that torch has a GPU, as soon as torch is imported."""
import importlib.abc
import importlib.machinery
import sys
import types


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "torch.cuda":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            module.is_available = lambda: True
            module.device_count = lambda: 1
            module.get_device_name = lambda *_: "pretended"
            module.get_device_capability = lambda *_: (9, 0)
            facts = {"name": "pretended", "total_memory": 16 << 30, "major": 9, "minor": 0}
            module.get_device_properties = lambda *_: types.SimpleNamespace(**facts)
            module.get_arch_list = lambda: ["sm_90"]

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
'''

_folder = tempfile.mkdtemp()
(Path(_folder) / "sitecustomize.py").write_text(_FOR_EACH)
exec(compile(_FOR_EACH, "sitecustomize.py", "exec"))
_begin = subprocess.Popen.__init__


def _begin_with_gpu(self: Any, *args: Any, env: Any = None, **kwargs: Any) -> None:
    """Start a program that finds the same GPU."""
    env = dict(os.environ if env is None else env)
    env["PYTHONPATH"] = os.pathsep.join([_folder, *filter(None, [env.get("PYTHONPATH")])])
    _begin(self, *args, env=env, **kwargs)


subprocess.Popen.__init__ = _begin_with_gpu  # type: ignore[method-assign]
