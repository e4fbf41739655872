package initiator;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.rpc.ErrorInfo;
import dev.unanimo.v1.BranchSpec;
import dev.unanimo.v1.CoordinatorServiceGrpc;
import dev.unanimo.v1.Mode;
import dev.unanimo.v1.Payload;
import dev.unanimo.v1.SubmitTransactionRequest;
import dev.unanimo.v1.TransactionResult;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.concurrent.TimeUnit;

/** Submits one transaction, and sends it again until the coordinator has answered. */
public final class Main {
    /** Tells whether the coordinator itself has said no, for good. */
    static boolean isFinal(StatusRuntimeException error) throws Exception {
        for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
            if (detail.is(ErrorInfo.class)) {
                ErrorInfo info = detail.unpack(ErrorInfo.class);
                return info.getDomain().equals("unanimo")
                        && !info.getMetadataOrDefault("retryable", "").equals("true");
            }
        }
        return false; // not from the coordinator: nothing is known
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
                .setMode(Mode.MODE_TCC).addBranches(branch).setIncludeOutputs(true).build();
        for (long pause = 100;; pause = Math.min(2 * pause, 5000)) {
            try {
                TransactionResult result = coordinator.withDeadlineAfter(10, TimeUnit.SECONDS)
                        .submitTransaction(request).getResult();
                switch (result.getOutcome()) {
                    case OUTCOME_COMMITTED -> {
                        System.out.println("committed: "
                                + result.getBranches(0).getOutput().getData().toStringUtf8());
                        System.exit(0);
                    }
                    case OUTCOME_ABORTED -> {
                        System.out.println("aborted: " + result.getAbortCause() + " "
                                + result.getBranches(0).getRefusal());
                        System.exit(4);
                    }
                    default -> System.err.println("not decided yet");
                }
            } catch (StatusRuntimeException error) {
                if (isFinal(error)) throw error; // the request is wrong, or the gid names another
                System.err.println("not known yet: " + error.getStatus());
            }
            Thread.sleep(pause);
        }
    }
}
