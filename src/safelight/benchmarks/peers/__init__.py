"""What contenders of other libraries run, each in a process of its own.

The scripts end in `.pyw`: they are data of this package and no modules of it, so nothing here can
import a peer. Another interpreter runs them, which need not have Safelight, so they and the modules
beside them import nothing of it. Only the files of a work's folder and lines of JSON pass between.
"""
