#!/usr/bin/tclsh
# fetch HOST PORT CA: print the page "/" of an HTTPS server, with tlsify's help.
lassign $argv host port authority
set tls [open |[list tlsify connect --ca $authority $host $port 2>@stderr] r+]
fconfigure $tls -translation binary -buffering none
fconfigure stdout -translation binary
# If there is no connection, closing says why.
catch {puts -nonewline $tls "GET / HTTP/1.1\r\nHost: $host\r\nConnection: close\r\n\r\n"}
fcopy $tls stdout
if {[catch {close $tls} message details]} {
    exit [lindex [dict get $details -errorcode] 2]
}
