#!/usr/bin/perl
# Measures a path with datagrams, where nothing but perl-base is at hand. Linux on x86_64.
#
#     probe.pl echo PORT...                             sends back what comes in, over UDP and TCP, IPv4 and IPv6
#     probe.pl ping ADDRESS PORT COUNT EVERY_MS         prints: SENT RECEIVED MIN_MS P50_MS ERRORS, of round trips
#     probe.pl sink PORT SECONDS_OF_SILENCE             prints the numbers of what came in, once nothing comes any more
#     probe.pl shots ADDRESS PORT COUNT PIECES          sends COUNT times PIECES datagrams of 1200 bytes by one call (GSO)
#     probe.pl tcp ADDRESS PORT                         prints the milliseconds of the shortest of ten round trips
#     probe.pl hold ADDRESS PORT                        waits until the other side of a TCP connection goes away
#     probe.pl load FOLDER NAME...                      loads modules of the kernel with what they need
use strict;
use warnings;
use Socket qw(:all);

# Seconds of the monotonic clock; Time::HiRes is not part of perl-base.
sub now {
    my $time = "\0" x 16;
    syscall(228, 1, $time) == 0 or die "clock_gettime: $!";
    my ($s, $ns) = unpack 'qq', $time;
    return $s + $ns / 1e9;
}

sub pause { select undef, undef, undef, $_[0] if $_[0] > 0 }

sub address {
    my ($host, $port) = @_;
    return $host =~ /:/ ? (AF_INET6, pack_sockaddr_in6($port, inet_pton(AF_INET6, $host)))
                        : (AF_INET, pack_sockaddr_in($port, inet_aton($host)));
}

sub bound {
    my ($family, $type, $port) = @_;
    socket my $socket, $family, $type, 0 or die "socket: $!";
    setsockopt $socket, SOL_SOCKET, SO_REUSEADDR, 1;
    setsockopt $socket, SOL_SOCKET, SO_RCVBUF, 4 << 20;
    setsockopt $socket, IPPROTO_IPV6, IPV6_V6ONLY, 1 if $family == AF_INET6;
    bind $socket, $family == AF_INET6 ? pack_sockaddr_in6($port, IN6ADDR_ANY) : pack_sockaddr_in($port, INADDR_ANY)
        or die "bind $port: $!";
    listen $socket, 8 if $type == SOCK_STREAM;
    return $socket;
}

sub readable {
    my ($seconds, @sockets) = @_;
    my $bits = '';
    vec($bits, fileno $_, 1) = 1 for @sockets;
    my $found = select $bits, undef, undef, $seconds;
    return $found > 0 ? grep { vec $bits, fileno $_, 1 } @sockets : ();
}

sub echo {
    my (@udp, @tcp);
    for my $family (AF_INET, AF_INET6) {
        push @udp, map { bound($family, SOCK_DGRAM, $_) } @_;
        push @tcp, map { bound($family, SOCK_STREAM, $_) } @_;
    }
    my %listens = map { fileno($_) => 1 } @tcp;
    my %udp = map { fileno($_) => 1 } @udp;
    $| = 1;
    print "ready\n";
    while (1) {
        for my $socket (readable(undef, @udp, @tcp)) {
            if ($udp{fileno $socket}) {
                my $from = recv $socket, my $bytes, 2000, 0;
                send $socket, $bytes, 0, $from if $from;
            } elsif ($listens{fileno $socket}) {
                accept my $new, $socket or next;
                push @tcp, $new;
            } elsif (sysread $socket, my $bytes, 2000) {
                syswrite $socket, $bytes;
            } else {
                my $gone = fileno $socket;
                @tcp = grep { fileno $_ != $gone } @tcp;
            }
        }
    }
}

sub ping {
    my ($host, $port, $count, $every) = @_;
    my ($family, $to) = address($host, $port);
    socket my $socket, $family, SOCK_DGRAM, 0 or die "socket: $!";
    setsockopt $socket, SOL_SOCKET, SO_RCVBUF, 4 << 20;
    my (%sent, @times, $errors);
    $errors = 0;
    my $collect = sub {
        while (readable($_[0], $socket)) {
            recv $socket, my $bytes, 2000, 0 or next;
            my ($number) = unpack 'N', $bytes;
            my $began = delete $sent{$number};
            push @times, (now() - $began) * 1000 if defined $began;
        }
    };
    my $start = now();
    for my $number (0 .. $count - 1) {
        pause($start + $number * $every / 1000 - now());
        $sent{$number} = now();
        defined send $socket, pack('N', $number) . 'x' x 100, 0, $to or $errors++;
        $collect->(0);
    }
    # On a busy machine answers come late; when nothing more comes for a second, the rest is lost.
    my ($end, $left) = (now() + 1, scalar keys %sent);
    while (%sent and now() < $end) {
        $collect->(0.05);
        ($end, $left) = (now() + 1, scalar keys %sent) if keys %sent < $left;
    }
    @times = sort { $a <=> $b } @times;
    printf "%d %d %.2f %.2f %d\n", $count, scalar @times, @times ? $times[0] : -1, @times ? $times[@times / 2] : -1, $errors;
}

sub sink {
    my ($port, $silence) = @_;
    my @sockets = map { bound($_, SOCK_DGRAM, $port) } AF_INET, AF_INET6;
    $| = 1;
    print "ready\n";
    my ($begun, @numbers);
    while (my @ready = readable($begun ? $silence : 20, @sockets)) {
        $begun = 1;
        for my $socket (@ready) {
            recv $socket, my $bytes, 2000, 0;
            push @numbers, unpack 'N', $bytes;
        }
    }
    print "$_\n" for @numbers;
}

sub shots {
    my ($host, $port, $count, $pieces) = @_;
    my ($family, $to) = address($host, $port);
    socket my $socket, $family, SOCK_DGRAM, 0 or die "socket: $!";
    setsockopt $socket, 17, 103, pack('i', 1200) or die "UDP_SEGMENT: $!";
    for my $shot (0 .. $count - 1) {
        my $bytes = join '', map { pack('N', $shot * $pieces + $_) . 'x' x 1196 } 0 .. $pieces - 1;
        defined send $socket, $bytes, 0, $to or die "send: $!";
        pause(0.005);
    }
}

sub tcp {
    my ($family, $to) = address(@_);
    socket my $socket, $family, SOCK_STREAM, 0 or die "socket: $!";
    connect $socket, $to or die "connect: $!";
    my @times;
    for (1 .. 10) {
        my $began = now();
        syswrite $socket, 'x';
        sysread $socket, my $bytes, 1;
        push @times, (now() - $began) * 1000;
    }
    @times = sort { $a <=> $b } @times;
    printf "%.2f\n", $times[0];
}

sub hold {
    my ($family, $to) = address(@_);
    my $socket;
    until (socket $socket, $family, SOCK_STREAM, 0 and connect $socket, $to) { pause(0.5) }
    sysread $socket, my $bytes, 1;
}

sub load {
    my ($folder, @names) = @_;
    my (%path, %needs, %done);
    open my $table, '<', "$folder/modules.dep" or die "$folder/modules.dep: $!";
    while (<$table>) {
        my ($path, $needs) = /^(\S+):\s*(.*)$/ or next;
        (my $name = $path) =~ s{^.*/|\.ko.*$}{}g;
        $name =~ tr/-/_/;
        ($path{$name}, $needs{$path}) = ($path, $needs);
    }
    my $insert;
    $insert = sub {
        my $path = shift;
        return if $done{$path}++;
        $insert->($_) for reverse split ' ', $needs{$path};
        open my $file, '<', "$folder/$path" or die "$path: $!";
        # What is built in, or there already, is all right.
        my $none = '';
        syscall(313, fileno $file, $none, 0) == 0 or $!{EEXIST} or die "$path: $!";
    };
    for my $name (@names) {
        die "there is no module $name\n" unless $path{$name};
        $insert->($path{$name});
    }
}

my $verb = shift // '';
my %verbs = (echo => \&echo, ping => \&ping, sink => \&sink, shots => \&shots, tcp => \&tcp, hold => \&hold, load => \&load);
($verbs{$verb} // die "no such verb: $verb\n")->(@ARGV);
