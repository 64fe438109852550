"""names.txt stands at the top of the repository; a wheel carries it inside npnet."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithNames(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            self.copy_file("names.txt", str(Path(self.build_lib) / "npnet" / "names.txt"))


setup(cmdclass={"build_py": BuildWithNames})
