// Submits one transaction, and sends it again until the coordinator has answered.
import { credentials, loadPackageDefinition, status, type ServiceError } from "@grpc/grpc-js";
import { loadSync, type MessageTypeDefinition } from "@grpc/proto-loader";
import { getProtoPath } from "google-proto-files";
import { setTimeout as sleep } from "node:timers/promises";
import type { ProtoGrpcType } from "./gen/coordinator";
import type { SubmitTransactionRequest } from "./gen/unanimo/v1/SubmitTransactionRequest";
import type { SubmitTransactionResponse__Output } from "./gen/unanimo/v1/SubmitTransactionResponse";

const [address, gid] = process.argv.slice(2);
const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };

const contract = loadSync("unanimo/v1/coordinator.proto", {
  ...options,
  includeDirs: [`${process.env.UNANIMO}/proto`],
});
const { unanimo } = loadPackageDefinition(contract) as unknown as ProtoGrpcType;
const coordinator = new unanimo.v1.CoordinatorService(address, credentials.createInsecure());

const errors = loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"], {
  ...options,
  includeDirs: [getProtoPath("..")],
});
const decode = (type: string, bytes: Buffer): any =>
  (errors[type] as MessageTypeDefinition<object, object>).deserialize(bytes);

/** Codes that do not pass by themselves where they are not the coordinator's own. */
const LASTING = [
  status.UNIMPLEMENTED,
  status.OUT_OF_RANGE,
  status.UNAUTHENTICATED,
  status.PERMISSION_DENIED,
  status.RESOURCE_EXHAUSTED,
];

/** A call may have had its effect: then a no, which speaks of its own call alone, tells nothing of the outcome. */
let open = false;

/**
 * Returns 0 if the same call is to be sent again. Otherwise it does not help to send it again, and the exit
 * code is 1 if the coordinator itself has said no, and 5 if the outcome is not known.
 */
function giveUp(error: ServiceError): number {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const details = bytes ? decode("google.rpc.Status", bytes as Buffer).details : [];
  for (const detail of details) {
    if (!detail.type_url.endsWith("/google.rpc.ErrorInfo")) continue;
    const info = decode("google.rpc.ErrorInfo", detail.value);
    if (info.domain !== "unanimo") continue;
    open ||= info.metadata.effect !== "none";
    if (info.metadata.retryable === "true") return 0;
    return open && info.reason !== "GID_REUSED" ? 5 : 1; // a gid of another transaction excludes every call
  }
  open = true;
  return LASTING.includes(error.code) ? 5 : 0;
}

/** Returns the exit code, which is 6 if a branch has ended against the decision, or cannot tell: a person must look. */
function followed(heuristic: unknown, exitCode: number): number {
  if (heuristic === "HEURISTIC_NONE") return exitCode;
  console.log("and a branch has ended otherwise, or cannot tell:", heuristic);
  return 6;
}

function submit(request: SubmitTransactionRequest): Promise<SubmitTransactionResponse__Output> {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + 10_000;
    coordinator.SubmitTransaction(request, { deadline }, (error, response) =>
      error ? reject(error) : resolve(response!),
    );
  });
}

async function main(): Promise<number> {
  const request: SubmitTransactionRequest = {
    gid,
    mode: "MODE_TCC",
    branches: [
      {
        branch_id: "lamps",
        participant: "py-shop",
        action: "reserve",
        payload: {
          data: Buffer.from(JSON.stringify({ item: "lamp", pieces: 2 })),
          media_type: "application/json",
        },
      },
    ],
    include_outputs: true,
    // Only then it is known whether each participant has done as was decided.
    wait_for: "WAIT_FOR_ENDED",
  };
  for (let pause = 100; ; pause = Math.min(2 * pause, 5000)) {
    try {
      const { result } = await submit(request);
      if (!result) {
        // None of the coordinator's, such as that of a proxy: a person must look.
        console.log("not known: the reply says nothing of the transaction");
        return 5;
      }
      if (result.outcome === "OUTCOME_COMMITTED") {
        console.log("committed:", result.branches[0]?.output?.data.toString());
        return followed(result.heuristic, 0);
      }
      if (result.outcome === "OUTCOME_ABORTED") {
        console.log("aborted:", result.abort_cause, result.branches[0]?.refusal);
        return followed(result.heuristic, 4);
      }
      open = true; // stored, and not decided yet
      console.error("not decided yet");
    } catch (error) {
      const { code, message } = error as ServiceError;
      const exitCode = giveUp(error as ServiceError);
      if (exitCode === 5 && code === status.RESOURCE_EXHAUSTED && request.include_outputs) {
        request.include_outputs = false; // the answer was too large for this client: once more, without outputs
        continue;
      }
      console.error(exitCode === 0 ? "not known yet:" : "stopped:", message);
      if (exitCode !== 0) return exitCode;
    }
    await sleep(pause);
  }
}

main().then((code) => process.exit(code));
