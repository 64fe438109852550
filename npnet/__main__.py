from npnet.cli import main

raise SystemExit(main())
