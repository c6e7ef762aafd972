#!/usr/bin/perl
# fetch HOST PORT CA: print the page "/" of an HTTPS server, with tlsify's help.
use strict;
use warnings;
use IPC::Open2;

my ($host, $port, $authority) = @ARGV;
my $pid = open2(my $answer, my $request, qw(tlsify connect --ca), $authority, $host, $port);
local $SIG{PIPE} = 'IGNORE';    # if there is no connection, the status says why
print $request "GET / HTTP/1.1\r\nHost: $host\r\nConnection: close\r\n\r\n";
$request->flush;                # not closed: many servers do not answer whoever has closed
print while <$answer>;
waitpid $pid, 0;
exit $? >> 8;
