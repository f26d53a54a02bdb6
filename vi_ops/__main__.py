from vi_ops.cli.main import main

main()
