package initiator;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.rpc.ErrorInfo;
import dev.unanimo.v1.BranchResult;
import dev.unanimo.v1.BranchSpec;
import dev.unanimo.v1.CoordinatorServiceGrpc;
import dev.unanimo.v1.Heuristic;
import dev.unanimo.v1.Mode;
import dev.unanimo.v1.Payload;
import dev.unanimo.v1.SubmitTransactionRequest;
import dev.unanimo.v1.TransactionResult;
import dev.unanimo.v1.WaitFor;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.concurrent.TimeUnit;

/** Submits one transaction, and sends it again until the coordinator has answered. */
public final class Main {
    /** A call may have had its effect: then a no, which speaks of its own call alone, tells nothing of the outcome. */
    static boolean open = false;

    /**
     * Returns 0 if the same call is to be sent again. Otherwise it does not help to send it again, and the
     * exit code is 1 if the coordinator itself has said no, and 5 if the outcome is not known.
     */
    static int giveUp(StatusRuntimeException error) throws Exception {
        for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
            if (detail.is(ErrorInfo.class)) {
                ErrorInfo info = detail.unpack(ErrorInfo.class);
                if (info.getDomain().equals("unanimo")) {
                    open |= !info.getMetadataOrDefault("effect", "").equals("none");
                    if (info.getMetadataOrDefault("retryable", "").equals("true")) return 0;
                    // A gid of another transaction excludes every call.
                    return open && !info.getReason().equals("GID_REUSED") ? 5 : 1;
                }
            }
        }
        open = true;
        return switch (error.getStatus().getCode()) {
            // Not from the coordinator, and does not pass by itself: a person must look.
            case UNIMPLEMENTED, OUT_OF_RANGE, UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED -> 5;
            default -> 0;
        };
    }

    /** Ends the program if a branch has ended against the decision, or cannot tell: a person must look. */
    static void followed(Heuristic heuristic) {
        if (heuristic == Heuristic.HEURISTIC_NONE) return;
        System.out.println("and a branch has ended otherwise, or cannot tell: " + heuristic);
        System.exit(6);
    }

    public static void main(String[] arguments) throws Exception {
        var channel = Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build();
        var coordinator = CoordinatorServiceGrpc.newBlockingStub(channel);
        var payload = Payload.newBuilder()
                .setData(ByteString.copyFromUtf8("{\"item\": \"lamp\", \"pieces\": 2}"))
                .setMediaType("application/json");
        var branch = BranchSpec.newBuilder().setBranchId("lamps").setParticipant("py-shop")
                .setAction("reserve").setPayload(payload);
        var request = SubmitTransactionRequest.newBuilder().setGid(arguments[1])
                .setMode(Mode.MODE_TCC).addBranches(branch).setIncludeOutputs(true)
                // Only then it is known whether each participant has done as was decided.
                .setWaitFor(WaitFor.WAIT_FOR_ENDED).build();
        for (long pause = 100;; pause = Math.min(2 * pause, 5000)) {
            try {
                var reply = coordinator.withDeadlineAfter(10, TimeUnit.SECONDS).submitTransaction(request);
                if (!reply.hasResult()) {
                    // None of the coordinator's, such as that of a proxy: a person must look.
                    System.out.println("not known: the reply says nothing of the transaction");
                    System.exit(5);
                }
                TransactionResult result = reply.getResult();
                // Without one there is nothing to tell of it.
                var only = result.getBranchesCount() > 0
                        ? result.getBranches(0) : BranchResult.getDefaultInstance();
                switch (result.getOutcome()) {
                    case OUTCOME_COMMITTED -> {
                        System.out.println("committed: " + only.getOutput().getData().toStringUtf8());
                        followed(result.getHeuristic());
                        System.exit(0);
                    }
                    case OUTCOME_ABORTED -> {
                        System.out.println("aborted: " + result.getAbortCause() + " " + only.getRefusal());
                        followed(result.getHeuristic());
                        System.exit(4);
                    }
                    default -> {
                        open = true; // stored, and not decided yet
                        System.err.println("not decided yet");
                    }
                }
            } catch (StatusRuntimeException error) {
                int exitCode = giveUp(error);
                if (exitCode == 5 && error.getStatus().getCode() == Status.Code.RESOURCE_EXHAUSTED
                        && request.getIncludeOutputs()) {
                    // The answer was too large for this client: once more, without outputs.
                    request = request.toBuilder().setIncludeOutputs(false).build();
                    continue;
                }
                System.err.println((exitCode == 0 ? "not known yet: " : "stopped: ") + error.getStatus());
                if (exitCode != 0) System.exit(exitCode);
            }
            Thread.sleep(pause);
        }
    }
}
