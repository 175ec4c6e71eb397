//! Values that cannot be, and what is said of them.

use super::{check_refusals, load};

#[test]
fn what_a_value_cannot_be_is_said_with_the_way_out() {
    check_refusals(&[
        (
            "default_time_zone = 'Asia/Daka'",
            "default_time_zone is \"Asia/Daka\", which is no time zone: did you mean \"Asia/Dhaka\"?",
        ),
        (
            "http.listen = '0.0.0.0:7070'",
            "http.listen is \"0.0.0.0:7070\", but another address than loopback needs \
             http.tokens: add one, as in tokens = [{ name = \"ops\", role = \"admin\", \
             file = \"ops.token\" }], or listen on 127.0.0.1",
        ),
        (
            "http.listen = 'here'",
            "http.listen is \"here\", but must be an address and a port: \"127.0.0.1:7070\"",
        ),
        (
            "[apps.SMS]",
            "apps.SMS is not an app: app name \"SMS\" must be 1 to 64 of a-z, 0-9, _ and -",
        ),
        (
            "kafka.enable_auto_commit = true",
            "kafka.enable_auto_commit = true is refused, because offsets are kept in the database \
             with the jobs and follow it: leave it out",
        ),
        (
            "kafka.properties.'group.id' = 'x'",
            "kafka.properties.\"group.id\" is refused, because it has a field of its own: set \
             group_id",
        ),
        (
            "apps.x = { dispatch = 'kafka', topic = 't', kafka = { bootstrap_servers = '' } }",
            "apps.x.kafka.bootstrap_servers is empty: give it a value, or leave it out for the \
             default",
        ),
        (
            "apps.x = { dispatch = 'kafka', topic = 't', kafka = { bootstrap_servers = 'h:1', \
             properties = { acks = 1 } } }",
            "apps.x.kafka.properties.\"acks\" is refused, because a dead letter or a fired \
             job that the broker loses would be lost: leave it out",
        ),
        (
            "apps.x = { kafka = { bootstrap_servers = 'h:1' } }",
            "apps.x.kafka has a meaning only with apps.x.dispatch = \"kafka\": set that, or leave \
             the kafka out",
        ),
        (
            "apps.x.dispatch = 'http'",
            "apps.x.dispatch = \"http\" needs apps.x.url: name the address for its jobs, like \
             https://host/path",
        ),
        (
            "apps.x.url = 'https://hush/'",
            "apps.x.url has a meaning only with apps.x.dispatch = \"http\": set that, or leave the \
             url out",
        ),
        (
            "apps.x = { dispatch = 'http', url = 'ftp://hush/' }",
            "apps.x.url cannot be read: write it like https://host/path",
        ),
        (
            "apps.x = { dispatch = 'http', url = 'https://u:hush@h/' }",
            "apps.x.url has a user or a password, which logs on the way could show: leave them out, \
             and send them by headers, as in headers = { Authorization = { env = \"NAME\" } }",
        ),
        (
            "apps.x = { dispatch = 'http', url = 'http://169.254.169.254/hush' }",
            "apps.x.url names 169.254.169.254, which is a link-local address, as those that hand out \
             a machine's credentials: name another, or set allow_link_local = true",
        ),
        (
            "apps.x = { dispatch = 'http', url = 'https://h/', client_cert = 'c.pem' }",
            "apps.x.client_cert needs client_key, the key of that certificate",
        ),
        (
            "apps.x = { dispatch = 'http', url = 'https://h/', proxy = 'hush' }",
            "apps.x.proxy cannot be read: write it like http://host:3128",
        ),
        (
            "apps.x = { dispatch = 'http', url = 'https://h/', headers = { A = { env = 'A', file = 'a' } } }",
            "apps.x.headers.A must have one of value, env and file",
        ),
        (
            "apps.x = { dispatch = 'http', url = 'https://h/', headers = { Webhook-Id = 'hush' } }",
            "apps.x.headers has Webhook-Id, which every request has already: leave it out",
        ),
        (
            "apps.x = { dispatch = 'http', url = 'https://h/', secrets = [''] }",
            "apps.x.secrets[0] is empty: give it a value, or leave it out",
        ),
        (
            "apps.x.dispatch = 'redis'",
            "apps.x.dispatch = \"redis\" needs apps.x.url: write it like redis://:password@host:6379/0",
        ),
        (
            "apps.x = { dispatch = 'redis', url = 'redis://h', command = 'lpush' }",
            "apps.x.dispatch = \"redis\" needs apps.x.key: name the key or channel for its jobs",
        ),
        (
            "apps.x = { dispatch = 'redis', url = 'redis://h', key = 'k' }",
            "apps.x.dispatch = \"redis\" needs apps.x.command: set it to \"xadd\", \"lpush\" or \
             \"publish\"",
        ),
        (
            "apps.x = { dispatch = 'redis', url = 'http://hush', key = 'k', command = 'xadd' }",
            "apps.x.url cannot be read: write it like redis://:password@host:6379/0",
        ),
        (
            "apps.x = { dispatch = 'redis', url = 'redis://h', key = 'k', command = 'lpush', max_length = 5 }",
            "apps.x.max_length has a meaning only with command = \"xadd\": set that, or leave the \
             max_length out",
        ),
        (
            "apps.x.key = 'k'",
            "apps.x.key has a meaning only with apps.x.dispatch = \"redis\": set that, or leave the \
             key out",
        ),
        (
            "apps.x = { delivery = 'at-most-once', max_attempts = 3 }",
            "apps.x.max_attempts is 3, but with delivery = \"at-most-once\" a job has one attempt: \
             leave it out",
        ),
        (
            "apps.x.rate_per_second = 0",
            "apps.x.rate_per_second is 0, but must be from 0.000001 (one in eleven days) to \
             1000000; leave it out for no limit",
        ),
        (
            "apps.x.rate_per_second = -1.5",
            "apps.x.rate_per_second is -1.5, but must be from 0.000001 (one in eleven days) to \
             1000000; leave it out for no limit",
        ),
        (
            "apps.x = { rate_per_second = 5, burst = 0 }",
            "apps.x.burst is 0, but must be a whole number from 1 to 4294967295",
        ),
        (
            "apps.x.max_concurrent = 0",
            "apps.x.max_concurrent is 0, but must be a whole number from 1 to 4294967295",
        ),
        (
            "apps.x.max_concurrent_per_key = -1",
            "apps.x.max_concurrent_per_key is -1, but must be a whole number from 1 to 4294967295",
        ),
        (
            "apps.x.burst = 5",
            "apps.x.burst has no effect without rate_per_second: set that too, or leave it out",
        ),
    ]);
    for listen in ["localhost:1", "[::1]:1", "127.0.0.2:0"] {
        load(&format!("http.listen = '{listen}'"), &[]).unwrap();
    }
}
