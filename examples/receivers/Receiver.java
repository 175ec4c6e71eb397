// Receives fired jobs: verifies the signature and the fence. See README.md.

import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.Base64;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Receiver {
    static final long TOLERANCE_S = 300;
    static final byte[] KEY =
        Base64.getDecoder().decode(System.getenv("WEBHOOK_SECRET").replaceFirst("^whsec_", ""));
    /** The greatest fence of each job. */
    static final Map<String, Long> FENCES = new ConcurrentHashMap<>();

    static boolean isSigned(Headers headers, byte[] body) throws GeneralSecurityException {
        String timestamp = String.valueOf(headers.getFirst("webhook-timestamp"));
        String signatures = headers.getFirst("webhook-signature");
        if (!timestamp.matches("[0-9]{1,12}") || signatures == null) {
            return false;
        }
        long off = System.currentTimeMillis() / 1000 - Long.parseLong(timestamp);
        if (Math.abs(off) > TOLERANCE_S) {
            return false;
        }
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(KEY, "HmacSHA256"));
        String identity = headers.getFirst("webhook-id") + "." + timestamp + ".";
        mac.update(identity.getBytes(StandardCharsets.UTF_8));
        byte[] expected = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes();
        // One of several, while a secret is replaced.
        for (String given : signatures.split(" ")) {
            if (MessageDigest.isEqual(given.getBytes(), expected)) {
                return true;
            }
        }
        return false;
    }

    static boolean isLate(String job, long fence) {
        return FENCES.merge(job, fence, Math::max) > fence;
    }

    static int statusOf(Headers headers, byte[] body) throws GeneralSecurityException {
        if (!isSigned(headers, body)) {
            return 401;
        }
        long fence = Long.parseLong(headers.getFirst("x-scheduler-fence"));
        if (isLate(headers.getFirst("x-scheduler-job-id"), fence)) {
            return 412;
        }
        System.out.println("done " + headers.getFirst("x-scheduler-request-id") + " " + fence);
        return 204;
    }

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            try (exchange) {
                byte[] body = exchange.getRequestBody().readAllBytes();
                exchange.sendResponseHeaders(statusOf(exchange.getRequestHeaders(), body), -1);
            } catch (GeneralSecurityException error) {
                throw new IllegalStateException(error);
            }
        });
        server.start();
        System.out.println("listening on " + server.getAddress().getPort());
    }
}
