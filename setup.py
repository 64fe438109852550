"""names.txt and play.txt stand at the top of the repository; a wheel carries them in npnet."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithTexts(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            for name in ("names.txt", "play.txt"):
                self.copy_file(name, str(Path(self.build_lib) / "npnet" / name))


setup(cmdclass={"build_py": BuildWithTexts})
